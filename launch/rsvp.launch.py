"""Start rsvp_node: `ros2 launch rsvp_ros rsvp.launch.py input_image_topic:=/camera/color/image_raw`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile

from launch import LaunchDescription
from rsvp_ros.ros.fastdds import PROFILES_VARIABLE

BOOLEAN = ["true", "false"]


def generate_launch_description():
    """Every argument with its description: `ros2 launch rsvp_ros rsvp.launch.py --show-args`."""
    share = Path(get_package_share_directory("rsvp_ros"))
    config = share / "config"
    arguments = [
        DeclareLaunchArgument(
            "params_file",
            default_value=str(config / "embedded.yaml"),
            description="YAML file with the node's parameters, which choose the models. The package contains "
            "embedded.yaml (no GPU, no network), server.yaml (an OpenAI-compatible server) and qwen3_vl_sam2.yaml "
            f"(both models on this machine's GPU), in {config}",
        ),
        DeclareLaunchArgument("namespace", default_value="rsvp", description="Namespace of the node and of its topics"),
        DeclareLaunchArgument(
            "input_image_topic", default_value="/camera/color/image_raw", description="Topic of the camera images"
        ),
        DeclareLaunchArgument(
            "image_transport",
            default_value="",
            choices=["", "raw", "compressed"],
            description="'compressed' subscribes to <input_image_topic>/compressed; empty: as set in params_file",
        ),
        DeclareLaunchArgument(
            "use_3d",
            default_value="",
            choices=["", *BOOLEAN],
            description="Publish target_pose, target_points and markers; empty: as set in params_file",
        ),
        DeclareLaunchArgument(
            "input_depth_topic",
            default_value="/camera/aligned_depth_to_color/image_raw",
            description="Topic of the depth images, registered to the camera images (16UC1 in millimetres or 32FC1 in "
            "metres); used with use_3d",
        ),
        DeclareLaunchArgument(
            "input_camera_info_topic",
            default_value="/camera/aligned_depth_to_color/camera_info",
            description="Topic of the intrinsics of the depth images; used with use_3d",
        ),
        DeclareLaunchArgument(
            "device",
            default_value="",
            description="Where models run: auto (a GPU if there is one), cpu, cuda, …; empty: as set in params_file",
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="",
            choices=["", *BOOLEAN],
            description="Whether the node configures and activates itself; false leaves that to a lifecycle manager; "
            "empty: as set in params_file",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="",
            choices=["", *BOOLEAN],
            description="Take the time from /clock; empty: as set in params_file, and false for RViz",
        ),
        DeclareLaunchArgument(
            "use_respawn",
            default_value="false",
            choices=BOOLEAN,
            description="Restart the node if its process dies",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Lowest severity that is logged",
        ),
        DeclareLaunchArgument(
            "rviz", default_value="false", choices=BOOLEAN, description="Also start RViz (package rviz2)"
        ),
        DeclareLaunchArgument(
            "rviz_config", default_value=str(config / "rsvp.rviz"), description="Configuration file for RViz"
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=nodes)])


def nodes(context):
    """The node, and RViz. Arguments left empty are left to the parameter file."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    switches = {"autostart": "autostart", "use_sim_time": "use_sim_time", "use_3d": "camera.use_3d"}
    overrides = {parameter: value(name) == "true" for name, parameter in switches.items() if value(name)}
    if value("image_transport"):
        overrides["camera.image_transport"] = value("image_transport")
    if value("device"):
        overrides |= {"segmenter.device": value("device"), "mllm.transformers.device": value("device")}
    # Large images need a larger shared-memory segment than the default, and malloc should not give their memory back
    # after each one (README, "Lost images"). Variables that the user has set are kept.
    environment = {
        PROFILES_VARIABLE: str(Path(get_package_share_directory("rsvp_ros")) / "config" / "fastdds.xml"),
        "MALLOC_MMAP_THRESHOLD_": "67108864",
        "MALLOC_TRIM_THRESHOLD_": "268435456",
    }
    return [
        Node(
            package="rsvp_ros",
            executable="rsvp_node",
            name="rsvp_node",
            namespace=value("namespace"),
            output="screen",
            respawn=value("use_respawn") == "true",
            respawn_delay=2.0,
            parameters=[ParameterFile(value("params_file"), allow_substs=True), *([overrides] if overrides else [])],
            remappings=[
                ("image_raw", value("input_image_topic")),
                ("depth_image", value("input_depth_topic")),
                ("camera_info", value("input_camera_info_topic")),
            ],
            arguments=["--ros-args", "--log-level", value("log_level")],
            additional_env={name: context.environment.get(name, default) for name, default in environment.items()},
        ),
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=value("namespace"),
            arguments=["-d", value("rviz_config")],
            parameters=[{"use_sim_time": value("use_sim_time") == "true"}],
            condition=IfCondition(value("rviz")),
        ),
    ]
