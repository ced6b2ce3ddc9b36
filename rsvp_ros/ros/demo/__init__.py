"""`make demo`: python -m rsvp_ros.ros.demo."""
