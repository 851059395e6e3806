"""What data sets share on the way from raw files to pairs.

csv_files           tables that others wrote, read as text
image_files         what lies below a folder, images and all else; images, looked at before they are used
folder_layouts      images in folders by label, with and without splits and wrapping folders
question_files      questions with answers of one word, from the files in which they are published
label_folders       pairs from images in folders by label
sampling            a balanced sample, drawn from a seed, without replacement
token_replacement   corrupt prompts: both options replaced by words of as many tokens
row_audit           what became of every raw row
"""
