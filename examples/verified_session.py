"""A session of verified actions against a shop that loses things.

    python examples/verified_session.py [LEDGER]

A price is to be changed in a small HTTP service (started here, on 127.0.0.1). The service answers its
first request with an error, and says yes to the second without doing it. So every change is looked at,
tried again, and recorded with what was seen. A product that the service refuses to delete is taken off
sale by another way. At the end the session is read back from the ledger and the ledger verified.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tallystick import Ledger, Session, get_session, list_sessions, verified_action

LAMP = {"name": "lamp", "price": 4790, "on_sale": True}
CHANGED = {**LAMP, "price": 3990}


class Shop(BaseHTTPRequestHandler):
    """One product. GET shows it, PUT changes it (from the third time on), DELETE is never allowed."""

    product: dict[str, Any] = LAMP
    puts = 0

    def do_GET(self) -> None:
        self.answer(200, Shop.product)

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Shop.puts += 1
        if Shop.puts == 1:
            self.answer(503, {"error": "try later"})
            return
        if Shop.puts > 2:
            Shop.product = body
        self.answer(200, body)

    def do_DELETE(self) -> None:
        self.answer(409, {"error": "in open orders"})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing: the session's live line says what happens."""


#: Without the proxy that the environment may name.
open_directly = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def run(ledger: Ledger, url: str, folder: Path) -> str:
    """Do the work; the session's id."""

    def call(method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with open_directly(urllib.request.Request(url, data, method=method), timeout=5) as answer:
            shown: dict[str, Any] = json.load(answer)
            return shown

    def product() -> dict[str, Any]:
        return call("GET")

    def gone() -> bool:
        try:
            return not product()
        except urllib.error.HTTPError as error:
            return error.code == 404

    with Session.start(
        ledger, "spring prices", kernel="Pricing", action="prices.update", live=True
    ) as session:
        verified_action(
            lambda: call("PUT", CHANGED),
            lambda: product() == CHANGED,
            session,
            "price.change",
            "Shop",
            intent=CHANGED,
            settle_delay=0.05,
            capture_state_fn=product,
        )
        deleted = verified_action(
            lambda: call("DELETE"), gone, session, "product.delete", "Shop", max_attempts=2, settle_delay=0
        )
        if not deleted:
            verified_action(
                lambda: call("PUT", {**product(), "on_sale": False}),
                lambda: not product()["on_sale"],
                session,
                "product.withdraw",
                "Shop",
                via_edge="EXTENDS",
                settle_delay=0,
                capture_state_fn=product,
            )
        label = folder / "label.txt"
        verified_action(
            lambda: label.write_text(f"lamp: {product()['price']} cents\n"),
            lambda: label.read_text() == "lamp: 3990 cents\n",
            session,
            "label.write",
            "Printer",
            settle_delay=0,
        )
    return session.session_id


def show(ledger: Ledger, session_id: str) -> None:
    """What anybody can read afterwards."""
    for summary in list_sessions(ledger):
        print(f"{summary.session_id}  {summary.label}: {summary.outcome}, {dict(summary.action_outcomes)}")
    for action in get_session(ledger, session_id[:6]).actions:
        seen = action.diff_summary or json.dumps(action.evidence)
        print(f"  {action.seq}. {action.action_type}, attempt {action.attempt}: {action.outcome} ({seen})")
    print(ledger.verify(ledger.head()))


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        path = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/agents.tally"
        with Ledger.open(path) as ledger:
            show(ledger, run(ledger, f"http://127.0.0.1:{server.server_port}/lamp", Path(folder)))
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
