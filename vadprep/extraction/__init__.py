"""Videos become features: one video, many videos, on Ray; and the estimate."""
