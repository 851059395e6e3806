"""Images by URL.

images         fetched once, within limits, checked by decoding
public_hosts   connections to public addresses only
"""
