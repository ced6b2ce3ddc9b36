"""What can go wrong, one exception per failure mode. Every message names what is at fault and says what to do next.

`code` is what the node reports as `error_code` in the result of the action FindTarget (action/FindTarget.action
holds the same numbers). "Not found" is not here: it is an answer, not an error.
"""


class RsvpError(Exception):
    """Base of all errors that the package raises on purpose."""

    code = 1


class InvalidInstructionError(RsvpError):
    """The instruction is empty, too long, or the box to follow is unusable."""

    code = 100


class InvalidImageError(RsvpError):
    """The image cannot be used: unknown encoding, no pixels, a buffer that does not match its size."""

    code = 101


class NoImageError(RsvpError):
    """No image has arrived from the camera."""

    code = 102


class ConfigurationError(RsvpError):
    """A parameter or an option has a value that cannot work."""

    code = 200


class ModelLoadError(RsvpError):
    """A model could not be loaded: a missing folder or file, weights of another architecture, not enough memory."""

    code = 201


class ModelRunError(RsvpError):
    """A loaded model failed while it ran (out of memory, a worker process that died)."""

    code = 202


class NoReasonerError(RsvpError):
    """An instruction was given, but no MLLM is configured, and the segmenter reads only boxes."""

    code = 203


class ServerUnavailableError(RsvpError):
    """The MLLM server cannot be reached, or answers with an error."""

    code = 300


class ServerTimeoutError(RsvpError):
    """The MLLM server did not connect, did not start, or did not finish its answer in time."""

    code = 301


class ParseError(RsvpError):
    """The MLLM's answer could not be understood, even after it was asked again."""

    code = 302


class CancelledError(RsvpError):
    """The request was cancelled by its caller, or ended when targets were cleared or the system was stopped."""

    code = 400


class SupersededError(RsvpError):
    """A newer request replaced this one."""

    code = 401
