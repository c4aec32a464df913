"""`fettle demo`: the main job of this product, end to end, through the API that any client sees."""
