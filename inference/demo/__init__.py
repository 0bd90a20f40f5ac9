"""Serve a web page that predicts and explains."""
