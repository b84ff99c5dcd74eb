"""A real JupyterLab, a page with it in a browser, and notebooks on it."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
from playwright.sync_api import expect

DEADLINE = 120  # seconds: for a machine with much else to do
OFF = {"fetchNews": "false", "checkForUpdates": False}
OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {**OFF, "doNotDisturbMode": True},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}


# -- the server -------------------------------------------------------------------------------------------------------


class Lab:
    """A running JupyterLab, its folders, and what was asked of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "root"
        self.config, self.runtime, self.data = folder / "config", folder / "runtime", folder / "data"
        self.settings = folder / "settings"
        self.pictures = Path(os.environ.get("CONVBERT_SCREENSHOTS") or folder / "screenshots").resolve()
        for path in (self.root, self.runtime, self.pictures):
            path.mkdir(parents=True, exist_ok=True)
        write_json(self.config / "labconfig" / "page_config.json", {"buildCheck": False, "buildAvailable": False})
        write_json(self.config / "labconfig" / "default_setting_overrides.json", OVERRIDES)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel = {"argv": argv, "display_name": "here", "language": "python"}
        write_json(self.data / "kernels" / "here" / "kernel.json", kernel)

    def set_theme(self, theme: str) -> None:
        """What stands in the settings of a reader; it holds for pages opened from now on."""
        themes = {"theme": f"JupyterLab {theme.title()}", "adaptive-theme": False}
        write_json(self.settings / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings", themes)

    def environment(self) -> dict[str, str]:
        """Nothing of the user's own Jupyter, and no way to a hub."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "MPLBACKEND"))}
        ours = {
            "JUPYTER_CONFIG_DIR": self.config,
            "JUPYTER_DATA_DIR": self.data,
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "JUPYTERLAB_SETTINGS_DIR": self.settings,
            "JUPYTERLAB_WORKSPACES_DIR": self.folder / "workspaces",
            "IPYTHONDIR": self.folder / "ipython",
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as an activated environment has it
        return {**kept, **{name: str(path) for name, path in ours.items()}, "HF_HUB_OFFLINE": "1", "PATH": path}

    def command(self) -> list[str]:
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": free_port(),
            "ServerApp.root_dir": self.root,
            "ServerApp.open_browser": False,
            "ServerApp.terminals_enabled": False,
            "ServerApp.allow_root": True,
            "IdentityProvider.token": "",
            "LabApp.expose_app_in_browser": True,
            "LabApp.extension_manager": "readonly",
            "LabApp.news_url": None,
            "LabApp.check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
        }
        return [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]

    @contextmanager
    def running(self):
        """Start it, wait until it answers, and end it with all its kernels, whatever happens."""
        with open(self.folder / "lab.log", "wb") as log:
            options = dict(env=self.environment(), cwd=self.root, stdin=subprocess.DEVNULL, start_new_session=True)
            server = subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT, **options)
            try:
                self.url = self.wait_until_ready(server)
                yield self
            finally:
                end(server)

    def wait_until_ready(self, server: subprocess.Popen) -> str:
        """The server's address, once it answers there."""
        note = self.runtime / f"jpserver-{server.pid}.json"  # the port that it took in the end stands here
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and server.poll() is None:
            url = read_url(note)
            if url and answers(f"{url}api/status"):
                return url
            time.sleep(0.05)
        raise RuntimeError(f"JupyterLab does not answer:\n{(self.folder / 'lab.log').read_text()[-3000:]}")


def write_json(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def read_url(note: Path) -> str | None:
    try:
        return json.loads(note.read_text())["url"]
    except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or half of it
        return None


def answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=10) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(server: subprocess.Popen) -> None:
    """Ask it to go, then make it go; kernels have sessions of their own, so each is ended by its number."""
    try:
        family = psutil.Process(server.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []  # kernels whose server is gone end by themselves
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, alive


# -- the browser ------------------------------------------------------------------------------------------------------

STARTED = "() => window.jupyterapp?.shell?.currentWidget && jupyterapp.restored.then(() => true)"
OPEN = """async ([path, id]) => {
  const kernel = id ? { id } : undefined;
  await jupyterapp.commands.execute("docmanager:open", { path, factory: "Notebook", kernel });
}"""
READY = """(path) => {
  const panel = jupyterapp.shell.currentWidget;
  return panel?.context?.path === path && panel.sessionContext.session?.kernel?.status === "idle";
}"""
RUN = """async ([cell, milliseconds]) => {
  const { content } = jupyterapp.shell.currentWidget;
  const late = new Promise((_, no) => setTimeout(() => no(new Error(`cell ${cell} does not end`)), milliseconds));
  content.activeCellIndex = cell;
  await Promise.race([jupyterapp.commands.execute("notebook:run-cell"), late]);
  return content.widgets[cell].model.outputs.toJSON();
}"""
START = """(cell) => {
  jupyterapp.shell.currentWidget.content.activeCellIndex = cell;
  jupyterapp.commands.execute("notebook:run-cell");
}"""
SHOWN = ".jp-NotebookPanel:not(.lm-mod-hidden)"
KERNEL = "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.id"


class Desk:
    """One page with JupyterLab, and all that went wrong in it."""

    def __init__(self, lab: Lab, browser):
        self.lab, self.wrong, self.theme, self.kernel = lab, [], None, None
        self.context = browser.new_context(viewport={"width": 1200, "height": 900})
        self.context.set_default_timeout(DEADLINE * 1000)
        self.context.on("request", lambda request: self.check_url(request.url))
        self.page = self.context.new_page()
        self.page.on("websocket", lambda socket: self.check_url(socket.url))
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.wrong.append(f"{error}\n{error.stack}"))

    def check_url(self, url: str) -> None:
        """Nothing is asked of any other machine."""
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname != "127.0.0.1":
            self.wrong.append(f"request to {url}")

    def hear(self, message) -> None:
        """No errors at all, and from our modules (which live at blob addresses) no warnings."""
        place = message.location["url"]
        if message.type == "error" or message.type == "warning" and place.startswith("blob:"):
            self.wrong.append(f"{message.type}: {message.text} ({place})")

    def open(self, theme: str) -> None:
        """JupyterLab from its beginning, in this theme."""
        self.theme = theme
        self.lab.set_theme(theme)
        self.page.goto(f"{self.lab.url}lab?reset")
        self.page.wait_for_function(STARTED)
        self.wait_for_splash()

    def take_picture(self, name: str) -> None:
        """How the page looks, for those who look at it afterwards."""
        self.page.screenshot(path=self.lab.pictures / f"{name}.png")

    def wait_for_splash(self) -> None:
        """The curtain in front of JupyterLab while it starts or changes its colours."""
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)


def write_notebook(path: Path, cells: Iterable[str]) -> None:
    """A notebook of these cells, for the kernel of the lab."""
    sources = [textwrap.dedent(cell).strip() for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata.kernelspec = {"name": "here", "display_name": "here", "language": "python"}
    nbformat.write(notebook, path)


class Book:
    """A notebook that is open on a desk. All of them share one kernel, which has torch in it after the first."""

    def __init__(self, desk: Desk, name: str, cells: tuple[str, ...]):
        self.desk, self.page, self.name, self.last = desk, desk.page, name, len(cells)
        end = "import ipywidgets\nipywidgets.Widget.close_all()"
        write_notebook(desk.lab.root / f"{name}.ipynb", (*cells, end))
        self.page.evaluate(OPEN, [f"{name}.ipynb", desk.kernel])
        self.page.wait_for_function(READY, arg=f"{name}.ipynb")
        desk.kernel = self.page.evaluate(KERNEL)
        self.view = self.page.locator(".jp-OutputArea-output .cv").first

    def run(self, cell: int) -> str:
        """Run a cell to its end; what it printed."""
        outputs = self.page.evaluate(RUN, [cell, DEADLINE * 1000])
        errors = ["\n".join(output["traceback"]) for output in outputs if output["output_type"] == "error"]
        assert not errors, errors[0]
        return "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")

    def start(self, cell: int) -> None:
        """Run a cell, and do not wait for its end."""
        self.page.evaluate(START, cell)

    def output(self, cell: int):
        """Where the outputs of a cell are shown."""
        return self.page.locator(f"{SHOWN} .jp-CodeCell").nth(cell).locator(".jp-Cell-outputArea")

    def press(self, command: str) -> None:
        """A button of the toolbar."""
        self.page.locator(f"{SHOWN} [data-command='notebook:{command}']").click()

    def expect(self, cell: int, text: str) -> None:
        """Run a cell until it prints this: what the browser tells may wait until Python has nothing else to do."""
        deadline = time.monotonic() + DEADLINE
        while (said := self.run(cell).strip()) != text and time.monotonic() < deadline:
            pass
        assert said == text, f"printed {said!r}, not {text!r}"

    def count_cells(self) -> int:
        return self.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length")

    def close(self) -> None:
        """End its views, and take it from the desk without asking whether it should be saved."""
        self.run(self.last)
        expect(self.view).to_have_count(0)
        self.page.evaluate("jupyterapp.shell.currentWidget.dispose()")
