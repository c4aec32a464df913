"""Bytes that nobody needs are removed, whoever died before, and files and uploads end when their time is over."""
