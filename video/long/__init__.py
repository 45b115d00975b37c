"""Long videos: frames at a regular distance, and copying a part to a file of its own."""
