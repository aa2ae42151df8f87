//! `vila report`: the page of a run that was made up, its text, its refusals, and its layout in a browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::child::command;
use crate::training::scratch;

const ATTACK: &str = "<script>window.attacked = 1</script><img src=x onerror=\"window.attacked = 1\">";
const STEPS: u64 = 2400;
const CHARTS: [&str; 10] = [
    "Loss",
    "Loss by source",
    "Validation loss",
    "Learning rate",
    "Gradient norm",
    "Throughput",
    "Packing efficiency",
    "Memory by owner",
    "Time waited",
    "Waiting for data, share of the step",
];

/// A number in 0..1 that looks random.
fn noise(step: u64, stream: u64) -> f64 {
    let mixed = (step * 31 + stream).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11) as f64 / (1u64 << 53) as f64
}

/// One line of metrics of a run with stages of 900 and 1,500 steps.
fn line(global_step: u64) -> Value {
    let (stage, step, of, peak) = match global_step {
        1..=900 => ("align", global_step, 900, 1e-3),
        _ => ("sft & <b>more</b>", global_step - 900, 1500, 2e-5),
    };
    let progress = step as f64 / of as f64;
    let part = |stream: u64, last: f64| (-4.0 * progress).exp() * 2.5 + last + 0.6 * noise(global_step, stream);
    let (pairs, text) = (part(1, 1.0), part(2, 1.6));
    let skipped = global_step == 1200;
    let spike = if global_step == 400 { 40.0 } else { 1.0 };
    let mut line = json!({
        "step": {
            "stage": stage, "step": step, "global_step": global_step, "loss": 0.7 * pairs + 0.3 * text,
            "grad_norm": if skipped { Value::Null } else { json!(spike * (0.4 + noise(global_step, 3) + 2.0 * (-6.0 * progress).exp())) },
            "lr": peak * f64::min(step as f64 / 60.0, 0.5 + 0.5 * (std::f64::consts::PI * progress).cos()),
            "documents": 64, "tokens": 8000 + (400.0 * noise(global_step, 4)) as u64, "supervised": 900, "images": 64,
            "micro_batches": 4, "packing": 0.9 + 0.08 * noise(global_step, 5),
            "loss_by_source": {"pairs": {"loss": pairs, "supervised": 630}, "text <i>": {"loss": text, "supervised": 270}},
        },
        "wall": {
            "seconds": 0.5 + 0.1 * noise(global_step, 6), "waited": 0.03 * noise(global_step, 7),
            "tokens_per_second": 8200.0 / (0.5 + 0.1 * noise(global_step, 6)),
            "time": 1.76e9 + 0.56 * global_step as f64 + if global_step > 1700 { 5400.0 } else { 0.0 },
            "saving": if global_step.is_multiple_of(300) { 0.4 } else { 0.0 },
            "memory": {
                "weights": 14u64 << 30, "gradients": 3u64 << 30, "optimizer": 6u64 << 30,
                "activations": ((9.0 + noise(global_step, 8)) * 1e9) as u64, "peak": 36u64 << 30,
            },
        },
    });
    if step.is_multiple_of(100) {
        line["step"]["validation_loss"] = json!(part(9, 1.2));
    }
    if skipped {
        line["step"]["skipped"] = json!("the gradient norm is <not> finite");
    }
    line
}

fn sample(step: u64, prompt: &str, text: &str, image: &Path) -> Value {
    json!({"stage": "align", "step": step, "global_step": step, "prompt": prompt, "images": [image, "gone.png"], "text": text})
}

fn write_lines(path: &Path, lines: impl Iterator<Item = Value>) {
    std::fs::write(path, lines.map(|line| format!("{line}\n")).collect::<String>()).expect("lines");
}

/// A run's directory with everything that a report can show.
fn made_up_run(name: &str) -> PathBuf {
    let run = scratch(name);
    write_lines(&run.join("metrics.jsonl"), (1..=STEPS).map(line));
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images/astronaut_small.png");
    let prompts = [("<image> what is it ?", "a digit"), (ATTACK, ATTACK), ("count to three :", "one two\nthree")];
    let samples =
        (0..=STEPS).step_by(100).flat_map(|step| prompts.map(|(prompt, text)| sample(step, prompt, text, &image)));
    write_lines(&run.join("samples.jsonl"), samples);
    for name in ["align", "sft@0001200", ".partial-sft"] {
        std::fs::create_dir_all(run.join("checkpoints").join(name)).expect("checkpoint");
    }
    std::os::unix::fs::symlink("checkpoints/sft@0001200", run.join("latest")).expect("latest");
    run
}

fn vila_report(arguments: &[&str]) -> (i32, String, String) {
    let output = command(&[&["report"], arguments].concat()).output().expect("child");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8 path")
}

/// The page of a run and what the command says about it.
fn report(run: &Path) -> (String, Value) {
    let (code, stdout, stderr) = vila_report(&[utf8(run), "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let facts = stdout.lines().find(|line| line.starts_with('{')).expect("JSON");
    let page = std::fs::read_to_string(run.join("report.html")).expect("page");
    (page, serde_json::from_str(facts).expect("JSON"))
}

#[test]
fn a_report_shows_everything_and_runs_nothing() {
    let run = made_up_run("report");
    let (page, facts) = report(&run);
    assert_eq!((&facts["charts"], &facts["steps"], &facts["samples"]), (&json!(CHARTS), &json!(STEPS), &json!(75)));
    assert_eq!(page.matches("<svg class=\"chart\"").count(), CHARTS.len());
    for title in CHARTS {
        assert!(page.contains(&format!("<figcaption>{title}</figcaption>")), "{title}");
    }
    for text in [
        "<b>sft &amp; &lt;b&gt;more&lt;/b&gt;</b>",
        "text &lt;i&gt;",
        "update skipped: the gradient norm is &lt;not&gt; finite (loss",
        "no step for 1 h 30 min before this one",
        "<td>sft@0001200 (latest)</td>",
        "12 of 25 generations",
        "data:image/png;base64,",
        "gone.png</code>",
        "step 2,400",
        "moving average over 60 steps",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains(ATTACK) && page.contains("&lt;script&gt;window.attacked") && !page.contains("<img src=x"));
    assert!(!page.contains(".partial-") && page.matches("<script>").count() == 1);
    for curve in page.split("<path class=\"curve").skip(1) {
        let path = curve.split('"').nth(4).unwrap_or_default();
        let points = path.matches(['M', 'L']).count();
        assert!((2..=1000).contains(&points) && !path.contains("NaN"), "{points} points: {:.80}", curve);
    }
    assert!(page.len() < 700_000, "{} bytes", page.len());
}

#[test]
fn a_report_of_an_old_or_small_run_leaves_charts_out() {
    let run = scratch("report-small");
    let old = json!({"step": {"stage": "text", "global_step": 1, "loss": 2.5, "lr": 0.0, "grad_norm": null}});
    std::fs::write(run.join("metrics.jsonl"), format!("{old}\n{{\"step\": {{\"sta")).expect("metrics");
    let (page, facts) = report(&run);
    assert_eq!(facts["charts"], json!(["Loss", "Learning rate"]));
    assert!(
        page.contains("the last line of metrics.jsonl is torn") && page.contains("<b>Memory by owner</b> is left out")
    );
    assert!(page.contains("the run has no samples.jsonl") && !page.contains("NaN"));
}

#[test]
fn a_run_that_cannot_be_reported_is_refused_with_a_cure() {
    let run = scratch("report-damaged");
    let refused = |arguments: &[&str], what: &[&str]| {
        let (code, _, stderr) = vila_report(arguments);
        assert!(code == 1 && what.iter().all(|what| stderr.contains(what)), "{code}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    };
    let dir = utf8(&run);
    refused(&[dir], &["metrics.jsonl: no metrics here", "the `out` of its recipe"]);
    let metrics = run.join("metrics.jsonl");
    std::fs::write(&metrics, "").expect("metrics");
    refused(&[dir], &["metrics.jsonl: no step yet"]);
    let good = line(1).to_string();
    for bad in ["{\"step\": {}}", "\u{0}\u{0}", "[1, 2", "{\"step\": {\"global_step\": -1}}"] {
        std::fs::write(&metrics, format!("{good}\n{bad}\n{good}\n")).expect("metrics");
        refused(&[dir], &["metrics.jsonl, line 2: damaged", "delete this line"]);
    }
    std::fs::write(&metrics, format!("{good}\n")).expect("metrics");
    refused(&[dir, "--output", utf8(&run.join("none/page.html"))], &["none/page.html"]);
    std::fs::write(run.join("samples.jsonl"), b"\xff\n").expect("samples");
    refused(&[dir], &["samples.jsonl, line 1: damaged"]);
}

/// Writes what a browser made of the page into the page: sizes of curves and texts, and what a pointer brings up.
const MEASURE: &str = r#"<script nonce="test">addEventListener("load", () => {
const charts = [...document.querySelectorAll("svg.chart")].map((svg) => {
    const [left, top, width, height] = svg.dataset.plot.split(" ").map(Number), size = svg.viewBox.baseVal;
    const box = (node) => (({ x, y, width, height }) => [x, y, x + width, y + height])(node.getBBox());
    const inside = ([x0, y0, x1, y1]) => x0 >= -1 && y0 >= -1 && x1 <= size.width + 1 && y1 <= size.height + 1;
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent).map(box);
    const apart = (a, b) => a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
    const area = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent("pointermove", { clientX: area.left + area.width / 2, clientY: area.top + 50 }));
    const tip = document.querySelector("output.tip").textContent;
    svg.dispatchEvent(new PointerEvent("pointerleave"));
    return {
        name: svg.getAttribute("aria-label"), tip, texts: texts.length, font: 10.5 * area.width / size.width,
        outside: texts.filter((text) => !inside(text)).length,
        overlaps: texts.filter((a, i) => texts.some((b, j) => j > i && !apart(a, b))).length,
        curves: [...svg.querySelectorAll(".curve")].map(box),
        plot: [left, top, left + width, top + height],
        drawn: [...svg.querySelectorAll(".curve")].every((curve) => getComputedStyle(curve).stroke !== "none"),
    };
});
const page = document.documentElement;
const measured = document.createElement("pre");
measured.id = "measured";
measured.textContent = JSON.stringify({
    charts, attacked: window.attacked ?? null, wide: page.scrollWidth - page.clientWidth,
    images: [...document.images].filter((image) => image.complete && image.naturalWidth > 0).length,
    loaded: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
});
document.body.append(measured);
});</script>"#;

const INSTALL: &str = "on Debian: apt-get install chromium";

/// The page's DOM after the browser has run its scripts; nothing where there is no browser.
fn opened(dir: &Path, page: &Path, width: u32) -> Option<String> {
    let profile = dir.join(format!("profile-{width}"));
    let browser = Command::new("timeout")
        .args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom"])
        .args([format!("--user-data-dir={}", utf8(&profile)), format!("--window-size={width},900")])
        .arg(format!("file://{}", utf8(page)))
        .output()
        .expect("timeout");
    if browser.status.code() == Some(127) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "Chromium is not here; {INSTALL}");
        eprintln!("SKIPPED: Chromium is not here; {INSTALL}");
        return None;
    }
    assert!(browser.status.success(), "{}", String::from_utf8_lossy(&browser.stderr));
    Some(String::from_utf8_lossy(&browser.stdout).into_owned())
}

#[test]
fn a_browser_draws_the_report() {
    let run = made_up_run("report-browser");
    let (page, _) = report(&run);
    // The policy stays in force: the page's own script must be the one that it names.
    let measuring =
        page.replace("script-src ", "script-src 'nonce-test' ").replace("</body>", &format!("{MEASURE}</body>"));
    let path = run.join("measuring.html");
    std::fs::write(&path, measuring).expect("page");
    for width in [1280, 500] {
        let Some(dom) = opened(&run, &path, width) else { return };
        let measured = dom.split("<pre id=\"measured\">").nth(1).and_then(|rest| rest.split("</pre>").next());
        let text = measured.expect("measured").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let measured: Value = serde_json::from_str(&text).expect("JSON");
        check_layout(&measured, width);
    }
}

fn check_layout(measured: &Value, width: u32) {
    let rest = (&measured["attacked"], &measured["loaded"], &measured["images"], &measured["wide"]);
    assert_eq!(rest, (&Value::Null, &json!(0), &json!(3), &json!(0)), "attacked, loaded, images, too wide at {width}");
    let charts = measured["charts"].as_array().expect("charts");
    assert_eq!(charts.len(), CHARTS.len());
    for chart in charts {
        let context = format!("at {width}: {chart}");
        assert!(chart["outside"] == 0 && chart["overlaps"] == 0 && chart["drawn"] == true, "{context}");
        assert!(chart["texts"].as_u64() > Some(10) && chart["font"].as_f64() > Some(9.0), "{context}");
        assert!(
            chart["tip"].as_str().is_some_and(|tip| tip.starts_with("step 1") && tip.lines().count() > 1),
            "{context}"
        );
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let plot: Vec<f64> = chart["plot"].as_array().into_iter().flatten().map(number).collect();
        for curve in chart["curves"].as_array().expect("curves") {
            let bounds: Vec<f64> = curve.as_array().into_iter().flatten().map(number).collect();
            let inside = bounds[..2].iter().zip(&plot[..2]).all(|(at, edge)| *at >= edge - 0.2)
                && bounds[2..].iter().zip(&plot[2..]).all(|(at, edge)| *at <= edge + 0.2);
            assert!(inside && bounds[2] - bounds[0] > 0.8 * (plot[2] - plot[0]), "{bounds:?} {context}");
        }
    }
}
