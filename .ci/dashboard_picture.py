"""What .ci/dashboard-picture runs: the relay, its endpoints, its producer, Prometheus, and the drawing."""
import http.client, json, os, pathlib, shutil, signal, socket, subprocess, sys, tempfile, threading, time, urllib.parse, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator

SECONDS = int(sys.argv[1])
PACE = 1 / 25  # an event each
OUT = pathlib.Path("docs/dashboard.png")
PANELS = json.loads(pathlib.Path("config/grafana/posthaste.json").read_text())["panels"]
BACK, PANEL, TEXT, MUTED = "#111217", "#181b1f", "#d8d9da", "#8e8e93"
LINES = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0"]
BOX = {"green": "#299c46", "red": "#d44a3a", "orange": "#d88c1f"}
begun = time.time()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def endpoint(answer):
    """A target: `answer(count)` is a status, and may take its time."""
    counts = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(answer(next(counts)))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def slow(_):
    time.sleep(0.2)
    return 204


def failing(count):
    """Well for a third of the time, then 503, then well again; now and then an event that it will never take."""
    age = (time.time() - begun) / SECONDS
    return 503 if 0.35 < age < 0.75 else 400 if count % 40 == 39 else 204


def gone(_):
    """An endpoint that is switched off for good after half of the time."""
    return 204 if time.time() < begun + SECONDS * 0.5 else 410


home = pathlib.Path(tempfile.mkdtemp(prefix="ph-"))
ingress, admin, prometheus = free_port(), free_port(), free_port()
(home / "connections.d").mkdir()
(home / "posthaste.toml").write_text(
    f'[ingress]\nhttp = ["127.0.0.1:{ingress}"]\n[admin]\nhttp = "127.0.0.1:{admin}"\nunix = "{home}/admin.sock"\n'
    f'[store]\npath = "{home}/store"\n[defaults.breaker]\nopen_for = "5s"\nopen_for_max = "5s"\n'
    '[defaults.retry]\ninterval = "2s"\nmax_interval = "10s"\n'
)
for name, url, rest in [
    ("orders", endpoint(lambda _: 204), ""),
    ("crm-slow", endpoint(slow), "max_in_flight = 4\n"),
    ("billing", endpoint(failing), ""),
    ("legacy", endpoint(gone), ""),
]:
    (home / f"connections.d/{name}.toml").write_text(f'[[connection]]\nname = "{name}"\nurl = "{url}"\n{rest}')
scrape = pathlib.Path("config/prometheus/scrape.yml").read_text().replace("127.0.0.1:8378", f"127.0.0.1:{admin}")
(home / "prometheus.yml").write_text(scrape.replace("15s", "1s").split("rule_files")[0])

log = (home / "log").open("w")
children = [
    subprocess.Popen([os.environ["POSTHASTE_BINARY"], "run", "--config", home / "posthaste.toml"], stderr=log),
    subprocess.Popen(
        ["prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data",
         f"--web.listen-address=127.0.0.1:{prometheus}"], stderr=log),
]


def ask(what, **parameters):
    url = f"http://127.0.0.1:{prometheus}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def produce():
    """An event each PACE; a reload in the middle."""
    end, number, reloaded = begun + SECONDS, 0, False
    connection = http.client.HTTPConnection("127.0.0.1", ingress, timeout=30)
    while time.time() < end:
        try:
            connection.request("POST", "/v1/events", b'{"order":1}', {"content-type": "application/json"})
            connection.getresponse().read()
        except OSError:
            connection.close()
        if not reloaded and time.time() > begun + SECONDS * 0.6:
            reloaded = True
            file = home / "connections.d/crm-slow.toml"
            file.write_text(file.read_text().replace("max_in_flight = 4", "max_in_flight = 6"))
        number += 1
        time.sleep(max(0, begun + number * PACE - time.time()))


def query(target):
    expression = target["expr"]
    for variable in ("$job", "$instance", "$connection"):
        expression = expression.replace(variable, ".*")
    return expression.replace("$__rate_interval", "10s").replace("$__range", f"{SECONDS}s")


def unit(name, value):
    if value != value:
        return ""
    if name == "percentunit":
        return f"{value:.0%}"
    if name == "s":
        for size, suffix in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if value >= size:
                return f"{value / size:.3g} {suffix}"
        return f"{value * 1000:.3g} ms" if value >= 0.001 else f"{value * 1e6:.3g} µs" if value else "0 s"
    if name == "bytes":
        for size, suffix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= size:
                return f"{value / size:.3g} {suffix}"
    if value >= 1000:
        return f"{value / 1000:.3g} K"
    return f"{value:.3g}" + (" /s" if name == "reqps" else "")


def legend(target, labels):
    text = target["legendFormat"]
    for key, value in labels.items():
        text = text.replace("{{" + key + "}}", value)
    # One daemon: its address says nothing.
    return text.replace(f" @ {labels.get('instance')}", "")


def stat(axes, panel, now):
    found = ask("query", query=query(panel["targets"][0]), time=now)
    value = float(found[0]["value"][1]) if found else float("nan")
    defaults = panel["fieldConfig"]["defaults"]
    colour = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    axes.set_facecolor(BOX.get(colour, colour))
    text = unit(defaults["unit"], value) or "no data"
    for mapping in defaults.get("mappings", []):
        text = mapping.get("options", {}).get(f"{value:g}", {}).get("text", text)
    axes.text(0.5, 0.42, text, color="white", size=21, weight="bold", ha="center", va="center", transform=axes.transAxes)


def table(axes, panel, now):
    names = panel["transformations"][1]["options"]["renameByName"]
    units = {o["matcher"]["options"]: p["value"] for o in panel["fieldConfig"]["overrides"] for p in o["properties"] if p["id"] == "unit"}
    rows, columns = {}, ["connection"]
    for target in panel["targets"]:
        column = names[f"Value #{target['refId']}"]
        columns.append(column)
        for series in ask("query", query=query(target), time=now):
            rows.setdefault(series["metric"]["connection"], {})[column] = float(series["value"][1])
    order = panel["options"]["sortBy"][0]["displayName"]
    ranked = sorted(rows, key=lambda name: -rows[name].get(order, 0))
    for at, column in enumerate(columns):
        x = 0.012 + at * 0.142
        axes.text(x, 0.76, column, color="#6e9fff", size=9.5, weight="bold", transform=axes.transAxes)
        for line, name in enumerate(ranked):
            value = name if at == 0 else unit(units.get(column, "short"), rows[name].get(column, float("nan")))
            axes.text(x, 0.60 - line * 0.16, value, color=TEXT, size=9.5, transform=axes.transAxes)


def lines(axes, panel, now):
    custom, kind = panel["fieldConfig"]["defaults"]["custom"], panel["fieldConfig"]["defaults"]["unit"]
    series = []
    for target in panel["targets"]:
        for found in ask("query_range", query=query(target), start=begun, end=now, step=1):
            points = [(float(t) - begun, float(v)) for t, v in found["values"] if v != "NaN"]
            if points:
                series.append((legend(target, found["metric"]), points))
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    # As Grafana has it, a series that is 0 throughout has its line; in a legend with many it is left out here.
    if len(series) > 6:
        series = [one for one in series if any(value for _, value in one[1])]
    base = {}
    for at, (name, points) in enumerate(series):
        colour = LINES[at % len(LINES)]
        x, y = [p[0] for p in points], [p[1] for p in points]
        low = [base.get(round(t), 0) for t in x] if stacked else [0] * len(x)
        high = [a + b for a, b in zip(low, y)]
        if stacked:
            base.update({round(t): top for t, top in zip(x, high)})
        axes.plot(x, high, color=colour, linewidth=1.2, label=f"{name}  {unit(kind, y[-1])}")
        axes.fill_between(x, low, high, color=colour, alpha=0.35 if stacked else 0.08, linewidth=0)
    assert series, f"{panel['title']} has no data"
    axes.set_xlim(0, now - begun)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top if any(v for _, ps in series for _, v in ps) else 1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(kind, value)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: time.strftime("%H:%M:%S", time.gmtime(begun + value))))
    axes.tick_params(colors=MUTED, labelsize=7, length=0, labelbottom=True, labelleft=True)
    axes.grid(color="#2c3235", linewidth=0.6)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=min(4, len(series)), fontsize=7, frameon=False,
                labelcolor=TEXT, handlelength=1.2, columnspacing=1.4)


def draw(now):
    # What is asked first: up to "Since when?"; below it the dashboard goes on with ingress, store and process.
    end = next(panel["gridPos"]["y"] for panel in PANELS if panel["title"] == "Ingress")
    width, cell, gap = 1500, 27, 6
    dpi = 100
    figure = plt.figure(figsize=(width / dpi, end * cell / dpi), dpi=dpi, facecolor=BACK)
    height = end * cell
    for panel in (panel for panel in PANELS if panel["gridPos"]["y"] < end):
        place = panel["gridPos"]
        x, y = place["x"] * width / 24 + gap / 2, place["y"] * cell + gap / 2
        w, h = place["w"] * width / 24 - gap, place["h"] * cell - gap
        box = lambda left, top, right, bottom: [(x + left) / width, 1 - (y + h - bottom) / height,
                                                (w - left - right) / width, (h - top - bottom) / height]
        if panel["type"] == "row":
            figure.text(x / width, 1 - (y + h / 2) / height, "▾ " + panel["title"], color=TEXT, size=11, weight="bold", va="center")
            continue
        frame = figure.add_axes(box(0, 0, 0, 0), facecolor=PANEL, xticks=[], yticks=[])
        for spine in frame.spines.values():
            spine.set_color("#2c3235")
        if panel["type"] == "timeseries":
            axes = figure.add_axes(box(62, 30, 12, 52), facecolor=PANEL)
            for spine in axes.spines.values():
                spine.set_visible(False)
            lines(axes, panel, now)
        else:
            {"stat": stat, "table": table}[panel["type"]](frame, panel, now)
        figure.text((x + 8) / width, 1 - (y + 15) / height, panel["title"], color=TEXT, size=9, weight="bold", va="center")
    figure.savefig(OUT, dpi=dpi, facecolor=BACK)
    from PIL import Image

    # Few colours are enough, and the file is a quarter.
    Image.open(OUT).convert("RGB").quantize(96).save(OUT, optimize=True)
    print(f"dashboard-picture: {OUT}, {OUT.stat().st_size // 1024} KiB")


def scraped():
    try:
        return ask("query", query="rate(process_cpu_seconds_total[10s])")
    except OSError:
        return False


try:
    # Time begins when all of them are there.
    while not scraped():
        assert time.time() < begun + 120 and all(child.poll() is None for child in children), (home / "log").read_text()
        time.sleep(0.1)
    begun = time.time()
    produce()
    draw(time.time() - 1)
finally:
    for child in children:
        child.send_signal(signal.SIGTERM)
        child.wait(60)
    shutil.rmtree(home)
