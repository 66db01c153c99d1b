//! One page with the tables and a bar for each side of each figure. It loads nothing.

use std::fmt::Write as _;

use crate::report::{Beside, Figure, Group, Report, number};

const STYLE: &str = "
:root { color-scheme: light dark; --ours: #2f6fb2; --other: #b8bec6; --met: #1b7f4b; --missed: #b3261e; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #8884; vertical-align: middle; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
.ours { fill: var(--ours); } .other { fill: var(--other); }
.met { color: var(--met); } .missed { color: var(--missed); }
p, li { color: color-mix(in srgb, currentColor 80%, transparent); }
";
/// Width of the longest bar.
const BAR: f64 = 220.0;

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>AVP benchmarks</title><style>{STYLE}</style></head><body>\n\
         <h1>AVP benchmarks</h1>\n"
    );
    for line in report.about().lines() {
        let _ = writeln!(page, "<p>{}</p>", escape(line));
    }
    for group in &report.groups {
        section(&mut page, group);
    }
    page += "</body></html>\n";
    page
}

fn section(page: &mut String, group: &Group) {
    let _ = writeln!(
        page,
        "<h2>{}</h2>\n<table><tr><th>figure</th><th></th><th>ratio</th><th>target</th></tr>",
        escape(&group.title)
    );
    for figure in &group.figures {
        let ratio = figure.beside.as_ref().map(Beside::times).unwrap_or_default();
        let target = match &figure.target {
            Some(target) => {
                let (class, word) = if target.met { ("met", "met") } else { ("missed", "missed") };
                format!("{} <b class=\"{class}\">{word}</b>", escape(&target.text))
            }
            None => String::new(),
        };
        let (name, bars) = (escape(&figure.name), bars(figure));
        let _ = writeln!(
            page,
            "<tr><td>{name}</td><td>{bars}</td><td class=\"n\">{ratio}</td><td>{target}</td></tr>"
        );
    }
    page.push_str("</table>\n<ul>\n");
    for note in &group.notes {
        let _ = writeln!(page, "<li>{}</li>", escape(note));
    }
    page.push_str("</ul>\n");
}

/// One bar per side, to the same scale.
fn bars(figure: &Figure) -> String {
    let mut sides = vec![("here", "ours", figure.value)];
    if let Some(Beside { what, value, .. }) = &figure.beside {
        sides.push((what, "other", *value));
    }
    let longest = sides.iter().map(|side| side.2).fold(f64::MIN_POSITIVE, f64::max);
    let height = 18 * sides.len();
    let mut svg = format!("<svg width=\"440\" height=\"{height}\" role=\"img\">");
    for (i, (what, class, value)) in sides.into_iter().enumerate() {
        let (y, width) = (18 * i, (value / longest * BAR).max(1.0));
        let label = escape(&format!("{} {} {what}", number(value), figure.unit));
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"0\" y=\"{}\" width=\"{width:.1}\" height=\"13\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{}\">{label}</text>",
            y + 2,
            width + 6.0,
            y + 13
        );
    }
    svg + "</svg>"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Bound;

    #[test]
    fn the_page_loads_nothing_and_shows_every_figure_as_text_and_bars() {
        let mut report = Report::start(false);
        let mut group = Group::new("a < b");
        let figure = Figure::rate("encode", 8, &[1.0]).speed_beside("SDK & co", &[1.0], &[9.0]);
        group.figures.push(figure.target(Bound::RatioAtLeast(8.0)));
        report.groups.push(group);
        let page = page(&report);
        assert!(
            page.contains("a &lt; b") && page.contains("SDK &amp; co") && page.contains("9.00 x as fast")
        );
        assert_eq!(page.matches("<rect").count(), 2);
        for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
