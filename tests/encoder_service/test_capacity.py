"""Sharing execution slots and memory among calls."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from encoder_service import capacity, images
from encoder_service.capacity import ExecutionSlots, PixelBudget, decoded
from encoder_service.client import Client
from encoder_service.errors import ImageError
from encoder_service.rpc.server import Server
from encoder_service.searcher import SearchRequest
from encoder_service.writer import NewImage
from gallery.deadline import deadline
from gallery.errors import LookalikeError, TooLateError
from tests.digits import png
from tests.encoder_service.test_images import saved


def test_slots_are_handed_out_in_order() -> None:
    slots = ExecutionSlots(1)
    order: list[int] = []

    def execute(number: int) -> None:
        with slots.slot():
            order.append(number)

    with slots.slot():
        threads = [threading.Thread(target=execute, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_between_two_images_a_call_lets_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = ExecutionSlots(1)
    order: list[str] = []
    queued = threading.Event()

    def other() -> None:
        queued.set()
        with slots.slot():
            order.append("other")

    with slots.slot():
        thread = threading.Thread(target=other)
        for number in range(3):
            with decoded(Image.new("L", (9, 9))):
                order.append(f"image {number}")
            if number == 0:
                thread.start()
                queued.wait(5)
                time.sleep(0.05)
    thread.join()
    assert order == ["image 0", "other", "image 1", "image 2"]


def test_the_budget_bounds_the_sum_and_admits_a_larger_image_alone() -> None:
    budget = PixelBudget(100, 10)
    most, held = 0, 0
    lock = threading.Lock()

    def hold(pixels: int) -> None:
        nonlocal most, held
        with budget.hold(pixels):
            with lock:
                held += pixels
                most = max(most, held)
            time.sleep(0.005)
            with lock:
                held -= pixels

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(hold, [40, 50, 60, 300, 20, 100] * 8))
    assert most == 300


def test_small_images_do_not_wait() -> None:
    budget = PixelBudget(100, 10)
    with budget.hold(100), budget.hold(10):
        pass


def test_waiting_for_the_budget_ends_with_the_caller_s_time_and_gives_up_the_slot() -> None:
    budget, slots = PixelBudget(100, 10), ExecutionSlots(1)
    with budget.hold(90), ThreadPoolExecutor(1) as pool:

        def wait() -> None:
            with deadline(3), slots.slot(), budget.hold(20):
                pass

        waiting = pool.submit(wait)
        time.sleep(0.1)
        with slots.slot():  # it is free
            assert not waiting.done()
        with pytest.raises(TooLateError):
            waiting.result(20)
    with budget.hold(100), slots.slot():
        pass


def test_what_is_no_image_does_not_wait_and_is_rejected() -> None:
    for content in (b"", b"rubbish", png(Image.new("L", (300, 300)))[:60]):
        with pytest.raises(ImageError), decoded(content):
            pass


def test_a_webp_counts_as_the_memory_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_budget", PixelBudget(1_000_000, 1000))
    with ThreadPoolExecutor(1) as pool, decoded(saved(Image.new("L", (700, 800)), "WEBP")):  # 560,000 pixels

        def decode_another(side: int) -> None:
            with deadline(0.3), decoded(png(Image.new("L", (side, side)))):
                pass

        pool.submit(decode_another, 300).result()  # 90,000 pixels
        with pytest.raises(TooLateError):
            pool.submit(decode_another, 600).result()


def test_a_png_with_very_long_texts_waits_for_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_budget", PixelBudget(1_000_000, 1000))
    long = saved(Image.new("L", (800, 800)), "PNG", icc_profile=bytes(1_500_000))
    with ThreadPoolExecutor(1) as pool, decoded(png(Image.new("L", (700, 800)))):

        def decode_another() -> None:
            with deadline(0.3), decoded(long):
                pass

        with pytest.raises(TooLateError):
            pool.submit(decode_another).result()
    with decoded(long) as image:
        assert image.size == (800, 800)


def test_all_calls_and_streams_decode_within_one_budget(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_budget", PixelBudget(1_000_000, 1000))
    lock = threading.Lock()
    decoding = most = 0
    decode = images.decode

    def counted(data: bytes, header: Image.Image | None) -> Image.Image:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.02)
        with lock:
            decoding -= 1
        return decode(data, header=header)

    monkeypatch.setattr(images, "decode", counted)
    large = png(Image.new("L", (800, 800)))  # only one fits

    def use(number: int) -> None:
        with Client(server.address) as client:
            match number % 4:
                case 0:
                    client.search(large)
                case 1:
                    client.search_batch([SearchRequest(large)] * 2)
                case 2:
                    assert not [x for x in client.encode_stream([large] * 2) if isinstance(x, LookalikeError)]
                case 3:
                    assert len(list(client.add([NewImage(f"{number}/{i}", large) for i in range(2)], "digits"))) == 2

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert most == 1
