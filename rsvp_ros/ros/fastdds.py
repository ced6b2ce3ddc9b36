"""Which environment variable names Fast DDS's profiles (config/fastdds.xml): Fast DDS 2 has another than Fast DDS 3."""

import os

PROFILES_VARIABLE = (
    "FASTRTPS_DEFAULT_PROFILES_FILE"
    if os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    else "FASTDDS_DEFAULT_PROFILES_FILE"
)
