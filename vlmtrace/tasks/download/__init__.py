"""Images by URL.

images         fetched once, within limits, checked by decoding
deadlines      connections that end in time
faults         why an image cannot be had
public_hosts   connections to public addresses only
"""
