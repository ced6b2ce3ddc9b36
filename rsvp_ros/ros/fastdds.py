"""The environment variable that names Fast DDS's profiles (config/fastdds.xml): Fast DDS 2 and 3 differ in it."""

import os

PROFILES_VARIABLE = (
    "FASTRTPS_DEFAULT_PROFILES_FILE"
    if os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    else "FASTDDS_DEFAULT_PROFILES_FILE"
)
