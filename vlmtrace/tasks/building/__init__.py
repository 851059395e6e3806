"""What data sets share on the way from raw files to pairs.

csv_files           tables that others wrote, whoever did
csv_header          where the header of such a table is, and which column each of its cells names
image_files         what lies below a folder, images and all else; images, looked at before they are used
folder_layouts      images in folders by label, with and without splits and wrapping folders
named_files         which file a table means by a path, a name or a number
csv_pairs           pairs that a CSV lists
question_tables     tables of questions in the files in which they are published
question_files      questions with answers of one word whose image is there, and a sample of them
label_folders       pairs from images in folders by label
sampling            a balanced sample, drawn from a seed, without replacement
token_replacement   corrupt prompts: both options replaced by words of as many tokens
row_audit           what became of every raw row
"""
