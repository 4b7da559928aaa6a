"""Hidden states that others have saved: files and requests, their layers and their labels."""
