"""RSVP (Reasoning Segmentation via Visual Prompting, ACL 2025) as a streaming system for robots."""

import pkgutil

# The source tree and the package that colcon installs (with the generated msg/ and action/) share one name:
# merging their paths lets `import rsvp_ros.msg` work from a checkout, too.
__path__ = pkgutil.extend_path(__path__, __name__)
__version__ = "0.1.0"
