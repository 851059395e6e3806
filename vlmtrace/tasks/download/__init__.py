"""Images by URL.

images         fetched once, within limits, checked by decoding
deadlines      connections that end in time
public_hosts   connections to public addresses only
"""
