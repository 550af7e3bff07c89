"""Built-in plug-ins of wmplatform, written exactly as a third party writes them."""
