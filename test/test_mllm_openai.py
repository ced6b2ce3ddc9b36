"""OpenAiMllm against a real HTTP server that answers and fails as servers do, and against `transformers serve`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import subprocess
import sys
import textwrap
import threading
import time

import cv2
import numpy as np
import pytest
from mllm_server import RecordedServer, Reply, unanswered_url, unused_url

from rsvp_ros.errors import (
    CancelledError,
    ConfigurationError,
    ModelLoadError,
    ModelRunError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from rsvp_ros.reasoning.mllm.base import Message
from rsvp_ros.reasoning.mllm.loading import load_mllm
from rsvp_ros.reasoning.mllm.openai_mllm import OpenAiConfig, OpenAiMllm

ANSWER = 'The cutter, 剪刀 🔪: {"bbox_2d": [1, 2, 3, 4]}'


def conversation(text: str = "What cuts rope?", image: np.ndarray | None = None) -> list[Message]:
    image = np.zeros((48, 64, 3), np.uint8) if image is None else image
    return [Message("system", "You find things."), Message("user", text, (image,))]


@pytest.fixture
def connect():
    """Makes an OpenAiMllm for a URL or a server; closes all of them in the end."""
    made = []

    def make(server: RecordedServer | str, **options) -> OpenAiMllm:
        url = server if isinstance(server, str) else server.url
        made.append(load_mllm(OpenAiConfig(base_url=url, **{"model": "recorded-mllm", **options})))
        return made[-1]

    yield make
    for mllm in made:
        mllm.close()


def test_streams_the_text_in_order_in_the_calling_thread(connect):
    pieces, threads = [], set()

    def on_text(piece: str) -> None:
        pieces.append(piece)
        threads.add(threading.get_ident())

    with RecordedServer(ANSWER) as server:
        answer = connect(server).generate(conversation(), on_text)
    assert answer.text == ANSWER
    assert pieces == [ANSWER[i : i + 4] for i in range(0, len(ANSWER), 4)]
    assert threads == {threading.get_ident()}
    assert (answer.prompt_tokens, answer.completion_tokens) == (11, len(pieces))
    assert answer.image_size == (64, 48)


def test_letters_cut_anywhere_on_the_wire_arrive_whole(connect):
    with RecordedServer(Reply(ANSWER, byte_by_byte=True, piece_length=1)) as server:
        pieces = []
        assert connect(server).generate(conversation(), pieces.append).text == ANSWER
    assert pieces == list(ANSWER)


def test_sends_the_conversation_with_its_images(connect):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    talk = [*conversation(image=image), Message("assistant", "The knife."), Message("user", "Are you sure?")]
    with RecordedServer(ANSWER) as server:
        connect(server, image_format="png", max_tokens=77).generate(talk)
    (request,) = server.requests
    assert request["model"] == "recorded-mllm"
    assert request["max_tokens"] == 77
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant", "user"]
    assert request["messages"][0]["content"] == "You find things."
    picture, text = request["messages"][1]["content"]
    assert text == {"type": "text", "text": "What cuts rope?"}
    kind, data = picture["image_url"]["url"].split(",", 1)
    assert kind == "data:image/png;base64"
    sent = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.cvtColor(sent, cv2.COLOR_BGR2RGB), image)


def test_large_images_are_scaled_down(connect):
    with RecordedServer(ANSWER) as server:
        answer = connect(server, max_pixels=10_000).generate(conversation(image=np.zeros((300, 400, 3), np.uint8)))
    width, height = answer.image_size
    assert 9_000 < width * height <= 10_000
    assert width / height == pytest.approx(400 / 300, rel=0.02)
    data = server.requests[0]["messages"][1]["content"][0]["image_url"]["url"].partition(",")[2]
    assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).shape == (height, width, 3)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_come_first_between_tags(connect, field):
    with RecordedServer(Reply(ANSWER, thinking="A knife or the scissors?", thinking_field=field)) as server:
        pieces = []
        answer = connect(server).generate(conversation(), pieces.append)
    assert answer.text == "".join(pieces) == f"<think>A knife or the scissors?</think>{ANSWER}"


def test_thoughts_without_an_answer_are_closed(connect):
    with RecordedServer(Reply(thinking="Hm.", finish_reason="length")) as server:
        answer = connect(server).generate(conversation())
    assert (answer.text, answer.cut) == ("<think>Hm.</think>", True)


def test_an_answer_that_a_filter_withholds_is_told_so(connect):
    refused = pytest.raises(ServerUnavailableError, match="content_filter.*other words")
    with RecordedServer(Reply(finish_reason="content_filter")) as server, refused:
        connect(server).generate(conversation())


def test_calls_from_several_threads_and_from_an_event_loop(connect):
    with RecordedServer(Reply(ANSWER, piece_delay_s=0.01)) as server:
        mllm = connect(server)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(mllm.generate(conversation()))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def ask():
            return mllm.generate(conversation())

        answers.append(asyncio.run(ask()))
    assert [answer.text for answer in answers] == [ANSWER] * 4


# A cancel: wherever the call is. Without it each of these would last for a minute or for ever.


@pytest.mark.parametrize(
    "reply",
    [Reply(ANSWER, hang_at=0), Reply(ANSWER, hang_at=2), Reply(status=429, headers={"Retry-After": "60"})],
    ids=["before the first token", "while streaming", "between retries"],
)
def test_cancel(connect, reply):
    cancel = threading.Event()
    with RecordedServer(reply) as server:

        def stop() -> None:
            server.wait_for_request()
            cancel.set()

        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(CancelledError):
            connect(server).generate(conversation(), cancel=cancel)
        stopper.join()
        if reply.hang_at is not None:
            assert server.hung_up.wait(30), "the server was left generating for nobody"


def test_cancel_from_within_the_stream(connect):
    cancel, pieces = threading.Event(), []

    def on_text(piece: str) -> None:
        pieces.append(piece)
        cancel.set()

    with RecordedServer(ANSWER) as server, pytest.raises(CancelledError):
        connect(server).generate(conversation(), on_text, cancel)
    assert pieces == [ANSWER[:4]]


def test_cancel_although_a_cancellation_was_lost(connect, monkeypatch):
    """As `asyncio.wait_for` of Python 3.11 loses one that comes together with what it waits for."""

    async def wait_for(work, timeout):
        task = asyncio.ensure_future(work)
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                return await asyncio.shield(task)
        raise asyncio.CancelledError

    cancel = threading.Event()
    with RecordedServer(Reply(ANSWER * 100, piece_delay_s=0.05)) as server:
        mllm = connect(server)
        monkeypatch.setattr(asyncio, "wait_for", wait_for)
        with pytest.raises(CancelledError):
            mllm.generate(conversation(), lambda _: cancel.set(), cancel)
        assert server.hung_up.wait(30), "the server was left generating for nobody"


def test_cancel_while_connecting(connect):
    cancel = threading.Event()
    with unanswered_url() as url:
        threading.Timer(0.2, cancel.set).start()
        with pytest.raises(CancelledError):
            connect(url, connect_timeout_s=100.0).generate(conversation(), cancel=cancel)


def test_a_name_that_is_being_resolved_does_not_keep_the_process():
    """Without a DNS server, a resolver takes minutes."""
    code = """
        import socket, threading
        import numpy as np
        from rsvp_ros.errors import CancelledError
        from rsvp_ros.reasoning.mllm.base import Message
        from rsvp_ros.reasoning.mllm.openai_mllm import OpenAiConfig, OpenAiMllm
        cancel = threading.Event()
        def getaddrinfo(*args, **options):
            cancel.set()
            threading.Event().wait()
        socket.getaddrinfo = getaddrinfo
        mllm = OpenAiMllm(OpenAiConfig(base_url="http://gpu-server:8000/v1", model="recorded-mllm"))
        try:
            mllm.generate([Message("user", "What cuts rope?")], cancel=cancel)
        except CancelledError:
            mllm.close()
            print("cancelled")
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "cancelled\n"), ran.stderr


def test_cancelled_before_it_began_asks_nothing(connect):
    cancel = threading.Event()
    cancel.set()
    with RecordedServer(ANSWER) as server:
        with pytest.raises(CancelledError):
            connect(server).generate(conversation(), cancel=cancel)
        assert not server.requests


def test_an_error_of_the_caller_ends_the_request(connect):
    def on_text(_: str) -> None:
        raise KeyError("mine")

    with RecordedServer(Reply(ANSWER, hang_at=1)) as server:
        with pytest.raises(KeyError, match="mine"):
            connect(server).generate(conversation(), on_text)
        assert server.hung_up.wait(30)


# Timeouts


def test_connect_timeout(connect):
    with unanswered_url() as url:
        with pytest.raises(ServerTimeoutError, match="connect_timeout_s = 0.3") as caught:
            connect(url, connect_timeout_s=0.3).generate(conversation())
        assert url in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "options", "named"),
    [
        (Reply(ANSWER, hang_at=0), {"first_token_timeout_s": 2.0}, "first_token_timeout_s = 2 s"),
        (Reply(ANSWER, hang_at=2), {"total_timeout_s": 2.0}, "total_timeout_s = 2 s"),
        (Reply(ANSWER, hang_at=2), {"first_token_timeout_s": 2.0}, "in the middle of its answer.*network"),
        (Reply(ANSWER, piece_delay_s=0.5), {"total_timeout_s": 2.0}, "total_timeout_s = 2 s"),
    ],
    ids=["first token", "total, hanging", "hanging", "total, slow"],
)
def test_timeouts_once_connected(connect, reply, options, named):
    with RecordedServer(reply) as server:
        with pytest.raises(ServerTimeoutError, match=named) as caught:
            connect(server, **options).generate(conversation())
        assert server.url in str(caught.value)
        assert len(server.requests) == 1
        assert server.hung_up.wait(30)


def test_a_slow_answer_may_last_longer_than_its_first_token(connect):
    with RecordedServer(Reply(ANSWER, piece_delay_s=0.4)) as server:
        assert connect(server, first_token_timeout_s=3.0).generate(conversation()).text == ANSWER


# Retries


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=500),
        Reply(status=503),
        Reply(status=429),
        Reply(ANSWER, disconnect_at=0),
        Reply(ANSWER, error_at=0, error_code=429),
        Reply(ANSWER, error_at=0, error_code=503),
    ],
    ids=["500", "503", "429", "connection lost", "429 in the stream", "503 in the stream"],
)
def test_tries_again_before_the_first_token(connect, fault):
    with RecordedServer([fault, ANSWER]) as server:
        pieces = []
        assert connect(server).generate(conversation(), pieces.append).text == ANSWER
        assert len(server.requests) == 2
    assert "".join(pieces) == ANSWER


@pytest.mark.parametrize("code", [None, 400])
def test_an_error_in_place_of_an_answer_is_told(connect, code):
    with RecordedServer([Reply(ANSWER, error_at=0, error_code=code, message="no such image"), ANSWER]) as server:
        with pytest.raises(ServerUnavailableError, match="answered with an error .no such image"):
            connect(server).generate(conversation())
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"choices": [], "usage": {}},
        {"choices": [], "usage": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}},
        {"choices": None, "usage": None},
        {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]},
    ],
)
def test_what_follows_an_answer_does_not_spoil_it(connect, change):
    with RecordedServer(Reply(ANSWER, usage=False, last_chunks=[change])) as server:
        found = connect(server).generate(conversation())
    assert (found.text, found.prompt_tokens, found.completion_tokens) == (ANSWER, 0, 0)


def test_thoughts_and_text_in_parts(connect):
    """As Mistral's hosted models stream them."""

    def delta(*parts: dict) -> dict:
        return {"choices": [{"index": 0, "delta": {"content": list(parts)}}]}

    def thinking(*texts: str) -> dict:
        return {"type": "thinking", "thinking": [{"type": "text", "text": text} for text in texts], "closed": True}

    chunks = [
        delta(thinking("A knife", " or")),
        delta(thinking(" the scissors?"), {"type": "text", "text": ANSWER[:5]}),
        delta({"type": "text", "text": ANSWER[5:9]}),
        {"choices": [{"index": 0, "delta": {"content": ANSWER[9:]}, "finish_reason": "stop"}]},
    ]
    with RecordedServer(Reply(last_chunks=chunks)) as server:
        pieces = []
        answer = connect(server).generate(conversation(), pieces.append)
    assert answer.text == "".join(pieces) == f"<think>A knife or the scissors?</think>{ANSWER}"
    assert len(pieces) == 6


@pytest.mark.parametrize(
    "content",
    [
        3,
        {"type": "text", "text": "a"},
        ["a"],
        [{"text": "a"}],
        [{"type": "text", "text": 3}],
        [{"type": "thinking", "thinking": "hm"}],
        [{"type": "image_url", "image_url": "data:"}],
    ],
)
def test_content_that_is_no_text_is_refused(connect, content):
    change = {"choices": [{"index": 0, "delta": {"content": content}}]}
    with (
        RecordedServer(Reply(ANSWER, last_chunks=[change])) as server,
        pytest.raises(ServerUnavailableError, match="something else than chat completions"),
    ):
        connect(server).generate(conversation())


@pytest.mark.parametrize("as_date", [False, True])
def test_waits_as_long_as_the_server_asks(connect, as_date):
    until = int(time.time()) + 4
    wait = email.utils.formatdate(until, usegmt=True) if as_date else "1.5"
    with RecordedServer([Reply(status=429, headers={"Retry-After": wait}), ANSWER]) as server:
        assert connect(server).generate(conversation()).text == ANSWER
        first, second = server.times
    if as_date:
        assert time.time() - (time.monotonic() - second) >= until
    else:
        assert second - first >= 1.5


def test_does_not_wait_longer_than_it_may(connect):
    with RecordedServer(Reply(status=429, headers={"Retry-After": "1000"})) as server:
        with pytest.raises(ServerUnavailableError, match="wait 1000 s, total_timeout_s is 180 s"):
            connect(server).generate(conversation())
        assert len(server.requests) == 1


def test_gives_up_after_max_retries(connect):
    with RecordedServer(Reply(status=500, message="CUDA error")) as server:
        with pytest.raises(ServerUnavailableError, match=r"500.*CUDA error.*tried 3 times"):
            connect(server, max_retries=2).generate(conversation())
        assert len(server.requests) == 3


def test_nobody_listens(connect):
    url = unused_url()
    with pytest.raises(ServerUnavailableError, match="cannot be reached.*tried 2 times.*base_url") as caught:
        connect(url, max_retries=1).generate(conversation())
    assert url in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(ANSWER, disconnect_at=2), "broke off its answer"),
        (Reply(ANSWER, error_at=2, message="model crashed"), "broke off its answer .model crashed"),
        (Reply(ANSWER, finish_reason=None), "broke off its answer"),
        (Reply(ANSWER, malformed_at=2), "something else than chat completions"),
        (Reply("", finish_reason=None), "sent no answer"),
    ],
    ids=["connection lost", "error in the stream", "no end", "malformed", "empty stream"],
)
def test_does_not_ask_again_once_text_has_come(connect, reply, message):
    with RecordedServer([reply, ANSWER]) as server:
        with pytest.raises(ServerUnavailableError, match=message) as caught:
            connect(server).generate(conversation())
        assert server.url in str(caught.value)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "the server's own words.*recorded-mllm"),
        (401, "RSVP_TEST_KEY is not set"),
        (403, "RSVP_TEST_KEY is not set"),
        (404, "no model 'recorded-mllm'.*it has first-model, second-model"),
    ],
)
def test_does_not_repeat_what_cannot_work(connect, monkeypatch, status, message):
    monkeypatch.delenv("RSVP_TEST_KEY", raising=False)
    with RecordedServer([Reply(status=status), ANSWER], models=["first-model", "second-model"]) as server:
        with pytest.raises(ServerUnavailableError, match=message):
            connect(server, api_key_env="RSVP_TEST_KEY").generate(conversation())
        assert len(server.requests) == 1


def test_a_context_that_is_too_small_is_told_so(connect):
    words = "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048"
    with RecordedServer(Reply(status=400, message=words)) as server:
        with pytest.raises(ServerUnavailableError, match=r"lower max_tokens \(4096\)"):
            connect(server).generate(conversation())
        assert len(server.requests) == 1, "another name for the limit helps nothing"


def test_of_many_models_the_likeliest_are_told(connect):
    models = [f"model-{k}" for k in range(300)]
    refused = pytest.raises(ServerUnavailableError, match="model-217.* and 292 more")
    with RecordedServer(Reply(status=404), models=models) as server, refused as caught:
        connect(server, model="modell-217").generate(conversation())
    assert len(str(caught.value)) < 500


# What servers do not take


def test_options_that_a_server_refuses_are_left_out_from_then_on(connect):
    with RecordedServer(ANSWER, refused_fields=["stream_options", "temperature"]) as server:
        mllm = connect(server)
        for _ in range(2):
            answer = mllm.generate(conversation())
            assert (answer.text, answer.completion_tokens) == (ANSWER, 0)
    assert len(server.requests) == 4  # twice refused, then twice answered


def test_max_completion_tokens_where_the_server_wants_it(connect):
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with RecordedServer([Reply(status=400, message=words), ANSWER]) as server:
        assert connect(server, max_tokens=99).generate(conversation()).text == ANSWER
    assert server.requests[1]["max_completion_tokens"] == 99
    assert "max_tokens" not in server.requests[1]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, "System role not supported"),
        (422, "Only user and assistant roles are supported!"),
        (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
    ],
)
def test_where_no_system_turn_is_taken_its_text_goes_to_the_user_from_then_on(connect, status, words):
    image = np.zeros((48, 64, 3), np.uint8)
    instruct = Message("system", "You find things.")
    with RecordedServer([Reply(status=status, message=words), ANSWER], refused_fields=["temperature"]) as server:
        mllm = connect(server)
        assert mllm.generate(conversation()).text == ANSWER
        more = [Message("assistant", "The knife."), Message("user", "Are you sure?")]
        mllm.generate([instruct, Message("user", "What cuts rope?"), *more])
        mllm.generate([Message("user", "What cuts rope?", (image,))])
    refused, folded, without_image, without_system = (r["messages"] for r in server.requests if "temperature" not in r)
    assert [message["role"] for message in refused] == ["system", "user"]
    assert [message["role"] for message in folded] == ["user"]
    picture, text = folded[0]["content"]
    assert picture == refused[1]["content"][0]
    assert text == {"type": "text", "text": "You find things.\n\nWhat cuts rope?"}
    assert [message["role"] for message in without_image] == ["user", "assistant", "user"]
    assert without_image[0]["content"] == "You find things.\n\nWhat cuts rope?"
    assert without_system[0]["content"][1]["text"] == "What cuts rope?"


def test_a_refusal_that_has_another_cause_is_told_and_not_remembered(connect):
    script = [*[Reply(status=400, message="Conversation roles must alternate")] * 2, ANSWER]
    with RecordedServer(script) as server:
        mllm = connect(server)
        with pytest.raises(ServerUnavailableError, match="400.*roles must alternate"):
            mllm.generate(conversation())
        assert mllm.generate(conversation()).text == ANSWER
    assert [r["messages"][0]["role"] for r in server.requests] == ["system", "user", "system"]


@pytest.mark.parametrize(
    ("model", "max_pixels", "warnings"),
    [
        ("qwen2.5vl:7b", 300_000, 1),
        ("qwen2.5vl:7b", 1024 * 28 * 28, 0),
        ("qwen2.5vl:7b", 0, 0),
        ("qwen3-vl:8b", 300_000, 0),
    ],
)
def test_images_that_a_server_would_scale_up_again_are_warned_of_once(
    connect, caplog, listen_to, model, max_pixels, warnings
):
    listen_to("rsvp_ros.reasoning.mllm.openai_mllm")
    with RecordedServer(ANSWER, models=[model]) as server:
        mllm = connect(server, model="", max_pixels=max_pixels)
        for _ in range(2):
            mllm.prepare()
    assert len({id(record) for record in caplog.records if "at least 802816" in record.message}) == warnings


# The model's name


def test_no_model_named_means_the_first_listed(connect):
    with RecordedServer(ANSWER, models=["first-model", "second-model"]) as server:
        mllm = connect(server, model="")
        assert mllm.name == server.url
        mllm.generate(conversation())
    assert server.requests[0]["model"] == mllm.name == "first-model"


@pytest.mark.parametrize("models", [None, []])
def test_no_model_named_and_none_listed(connect, models):
    with (
        RecordedServer(ANSWER, models=models) as server,
        pytest.raises(ServerUnavailableError, match="set the model's name"),
    ):
        connect(server, model="").generate(conversation())


@pytest.mark.parametrize("page", ["<html>Sign in</html>", "[]", '{"object": "list"}', '{"data": 3}'])
def test_a_page_in_place_of_a_list_of_models(connect, page):
    with RecordedServer(Reply(status=404), models=page) as server:
        with pytest.raises(ServerUnavailableError, match="base_url usually ends in /v1|lists no model"):
            connect(server, model="").prepare()
        with pytest.raises(ServerUnavailableError, match="no model 'mine'.*lists none"):
            connect(server, model="mine").generate(conversation())


def test_prepare_learns_the_name_that_the_server_has(connect):
    with RecordedServer(ANSWER, models=["first-model", "second-model"]) as server:
        mllm = connect(server, model="")
        mllm.prepare()
        assert mllm.name == "first-model"
        assert not server.requests
    with pytest.raises(ServerUnavailableError, match="cannot be reached"):
        connect(unused_url(), model="", max_retries=0).prepare()
    connect(unused_url(), model="named").prepare()  # nothing to ask


def test_a_learnt_name_that_the_server_has_no_more_is_forgotten(connect):
    with RecordedServer([ANSWER, Reply(status=404), ANSWER], models=["first-model"]) as server:
        mllm = connect(server, model="")
        mllm.generate(conversation())
        server.models = ["other-model"]  # as after a restart
        with pytest.raises(ServerUnavailableError, match="no model 'first-model'.*it has other-model"):
            mllm.generate(conversation())
        mllm.prepare()
        assert mllm.name == "other-model"
        assert mllm.generate(conversation()).text == ANSWER
    assert [request["model"] for request in server.requests] == ["first-model", "first-model", "other-model"]
    with RecordedServer(Reply(status=404)) as server:
        mllm = connect(server, model="mine")
        with pytest.raises(ServerUnavailableError, match="no model 'mine'"):
            mllm.generate(conversation())
        assert mllm.name == "mine", "a name that was set was forgotten"


# The key


def test_the_key_goes_to_the_server_and_nowhere_else(connect, monkeypatch, caplog, capfd):
    key = "sk-test-0123456789"
    monkeypatch.setenv("RSVP_TEST_KEY", key)
    caplog.set_level("DEBUG")
    script = [Reply(status=500, message=f"bad key {key}"), Reply(status=401, message=f"Incorrect API key: {key}")]
    with RecordedServer(script) as server:
        mllm = connect(server, api_key_env="RSVP_TEST_KEY")
        with pytest.raises(ServerUnavailableError, match="RSVP_TEST_KEY is not accepted") as caught:
            mllm.generate(conversation())
        assert all(given == f"Bearer {key}" for given in server.authorizations)
    chain = f"{caught.value!r} {caught.value.__cause__!r}"
    assert all(key not in text for text in (chain, repr(mllm), caplog.text, *capfd.readouterr()))


def test_a_wrong_key_that_is_answered_as_a_bad_request(connect, monkeypatch):
    """As Gemini does."""
    monkeypatch.setenv("RSVP_TEST_KEY", "sk-test-0123456789")
    words = "API key not valid. Please pass a valid API key."
    with RecordedServer(Reply(status=400, message=words)) as server:
        with pytest.raises(ServerUnavailableError, match="not valid.*RSVP_TEST_KEY is not accepted.*api_key_env"):
            connect(server, api_key_env="RSVP_TEST_KEY").generate(conversation())
        assert len(server.requests) == 1


@pytest.mark.parametrize("around", ["\r", "\n", "\r\n", " ", "\t"])
def test_blanks_around_the_key_are_not_part_of_it(connect, monkeypatch, around):
    monkeypatch.setenv("RSVP_TEST_KEY", f"{around}sk-test-0123456789{around}")
    with RecordedServer(ANSWER) as server:
        assert connect(server, api_key_env="RSVP_TEST_KEY").generate(conversation()).text == ANSWER
        assert server.authorizations == ["Bearer sk-test-0123456789"]


@pytest.mark.parametrize("key", ["sk-se\ncret", "sk-secr\u00e9t", "sk-\x7fsecret", "\u201csk-secret\u201d"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(connect, monkeypatch, key):
    monkeypatch.setenv("RSVP_TEST_KEY", key)
    with pytest.raises(ConfigurationError, match="RSVP_TEST_KEY.*printable ASCII") as caught:
        connect(unused_url(), api_key_env="RSVP_TEST_KEY")
    assert "sk-" not in str(caught.value)


def test_a_blank_key_is_none_and_hides_nothing_in_messages(connect, monkeypatch):
    monkeypatch.setenv("RSVP_TEST_KEY", " ")
    with RecordedServer(Reply(status=401)) as server:
        with pytest.raises(ServerUnavailableError, match="the server's own words.*RSVP_TEST_KEY is not set"):
            connect(server, api_key_env="RSVP_TEST_KEY").generate(conversation())
        assert server.authorizations == ["Bearer none"]


@pytest.mark.parametrize("key", ["hf_aSecretOfMine", "sk_secretofmine"])
def test_a_key_in_place_of_the_name_of_its_variable_is_not_repeated(connect, key):
    with (
        RecordedServer(Reply(status=401)) as server,
        pytest.raises(ServerUnavailableError, match="variable that api_key_env names is not set") as caught,
    ):
        connect(server, api_key_env=key).generate(conversation())
    assert key not in str(caught.value)


def test_a_server_without_keys_needs_none(connect, monkeypatch):
    monkeypatch.delenv("RSVP_TEST_KEY", raising=False)
    with RecordedServer(ANSWER) as server:
        connect(server, api_key_env="RSVP_TEST_KEY").generate(conversation())
        assert server.authorizations == ["Bearer none"]


# Life and set-up


def test_closed_while_it_answers(connect):
    with RecordedServer(Reply(ANSWER, hang_at=2)) as server:
        mllm = connect(server)

        def close() -> None:
            server.wait_for_request()
            mllm.close()

        closer = threading.Thread(target=close)
        closer.start()
        with pytest.raises(ModelRunError, match="closed"):
            mllm.generate(conversation())
        closer.join()
    with pytest.raises(ModelRunError, match="closed"):
        mllm.generate(conversation())


def test_closed_although_a_cancellation_was_lost(connect):
    """As `asyncio.wait_for` of Python 3.11 loses one that comes together with what it waits for."""
    waiting = threading.Event()

    async def lose_one() -> None:
        for last in (False, True):
            waiting.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if last:
                    raise

    with RecordedServer(Reply(ANSWER)) as server:
        mllm = connect(server)
        call = asyncio.run_coroutine_threadsafe(lose_one(), mllm._loop)
        assert waiting.wait(30)
        closer = threading.Thread(target=mllm.close, daemon=True)
        closer.start()
        closer.join(30)
        assert not closer.is_alive()
        assert call.cancelled()


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "localhost:8000"},
        {"base_url": "http://me:secret@host/v1"},
        {"base_url": "http://:secret@host/v1"},
        {"base_url": "http://secret@host/v1"},
        {"base_url": "me:secret@host/v1"},
        {"base_url": "http://host/v1?key=secret"},
        {"base_url": "http://host:80a/v1"},
        {"base_url": "http://host:99999/v1"},
        {"base_url": "http://[::1/v1"},
        {"base_url": "http:///v1"},
        {"base_url": "http://host/v1\n"},
        {"api_key_env": "sk-secret"},
        {"api_key_env": "Bearer secret"},
        {"api_key_env": "secret\n"},
        {"api_key_env": ""},
        {"connect_timeout_s": 0.0},
        {"total_timeout_s": float("nan")},
        {"max_retries": -1},
        {"temperature": -0.1},
        {"image_format": "gif"},
        {"jpeg_quality": 0},
    ],
)
def test_values_that_cannot_work_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigurationError, match=name) as caught:
        OpenAiConfig(**options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks://127.0.0.1:7890/"), ("ALL_PROXY", "socks5://127.0.0.1:7890"), ("SSL_CERT_FILE", "/missing")],
)
def test_an_environment_that_lets_no_client_be_made_is_named(monkeypatch, variable, value):
    monkeypatch.delenv("all_proxy", raising=False)
    monkeypatch.setenv(variable, value)
    if value.startswith("socks5"):
        monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigurationError, match=f"no client .* can be made.*{variable}"):
        OpenAiMllm(OpenAiConfig())


def test_without_the_package_openai(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'rsvp_ros\[openai\]'"):
        OpenAiMllm(OpenAiConfig())


def test_importing_the_backends_imports_no_model_library():
    check = "import sys, rsvp_ros.reasoning.mllm.loading; sys.exit(any(m in sys.modules for m in ('torch', 'openai')))"
    assert subprocess.run([sys.executable, "-c", check], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_transformers_serve(tmp_path, connect):
    """A server that others wrote, with a real model behind it."""
    from tiny_mllm import build_tiny_mllm, serve_tiny_mllm  # imports torch, which no other test here needs

    build_tiny_mllm(tmp_path / "model", ANSWER)
    with serve_tiny_mllm(tmp_path / "model") as url:
        mllm = connect(url, model=str(tmp_path / "model"))
        pieces = []
        answer = mllm.generate(conversation(), pieces.append)
        assert answer.text == "".join(pieces) == ANSWER
        assert len(pieces) > 3
        assert answer.completion_tokens > 3
        assert answer.prompt_tokens > len("You find things.What cuts rope?")

        cancel = threading.Event()
        with pytest.raises(CancelledError):
            mllm.generate(conversation(), lambda _: cancel.set(), cancel)
        assert mllm.generate(conversation()).text == ANSWER
