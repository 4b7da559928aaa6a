"""Banks of images: a VLM's visual tokens, stored beside a bank's contexts."""
