"""What a report's page is made of: pictures, the zoomable timeline, and what the figures say in words."""
