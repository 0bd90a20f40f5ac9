"""Turn a checkpoint into a folder with a web page that labels images in the browser."""
