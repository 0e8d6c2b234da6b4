//! A flame graph: width is time, height is depth, a box stands on the function that called it.

use std::collections::BTreeMap;

use super::stacks::Sample;

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
const TITLE: f64 = 34.0;
/// What is narrower is left out: it could be neither read nor pointed at.
const LEAST_WIDTH: f64 = 0.8;
/// Of a letter, about, at the font's size.
const LETTER: f64 = 6.6;

#[derive(Default)]
struct Node {
    period_ns: u64,
    children: BTreeMap<String, Node>,
}

/// The samples as an SVG file; `roots` gives the lowest box of each, samples without one are left out.
pub(super) fn svg<'a>(title: &str, samples: impl Iterator<Item = (&'a Sample, &'a str)>) -> String {
    let mut root = Node::default();
    for (sample, process) in samples {
        root.period_ns += sample.period_ns;
        let mut node = &mut root;
        let outwards_in = sample.frames.iter().rev().map(|frame| frame.symbol.as_str());
        for name in [process, sample.thread.as_str()].into_iter().chain(outwards_in) {
            node = node.children.entry(name.to_owned()).or_default();
            node.period_ns += sample.period_ns;
        }
    }
    let deepest = depth(&root, WIDTH / root.period_ns.max(1) as f64);
    let height = TITLE + ROW * deepest as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <style>svg{{background:#fff;font:11px monospace}}rect{{stroke:#fff;stroke-width:.5}}.t{{font:15px sans-serif}}</style>\n\
         <text class=\"t\" x=\"10\" y=\"22\">{}</text>\n",
        escaped(title)
    );
    draw(&root, 0.0, height - 10.0, WIDTH / root.period_ns.max(1) as f64, &mut svg);
    svg + "</svg>\n"
}

fn depth(node: &Node, scale: f64) -> usize {
    let shown = node.children.values().filter(|child| child.period_ns as f64 * scale >= LEAST_WIDTH);
    shown.map(|child| 1 + depth(child, scale)).max().unwrap_or(0)
}

fn draw(node: &Node, left: f64, bottom: f64, scale: f64, svg: &mut String) {
    let mut left = left;
    for (name, child) in &node.children {
        let width = child.period_ns as f64 * scale;
        if width >= LEAST_WIDTH {
            let top = bottom - ROW;
            let letters = ((width - 4.0) / LETTER) as usize;
            let text: String = if letters >= 3 { name.chars().take(letters).collect() } else { String::new() };
            svg.push_str(&format!(
                "<g><title>{name} {:.1} ms</title><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{ROW}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>\n",
                child.period_ns as f64 / 1e6,
                colour(name),
                left + 2.0,
                top + 12.0,
                escaped(&text),
                name = escaped(name),
            ));
            draw(child, left, top, scale, svg);
        }
        left += width;
    }
}

/// Always the same for a name, so that two graphs can be compared.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("hsl({},80%,{}%)", 15 + hash % 40, 62 + hash / 64 % 14)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::stacks::Frame;

    #[test]
    fn a_box_is_as_wide_as_its_share_and_names_are_escaped() {
        let sample = |symbol: &str, period_ns| {
            let frames = vec![Frame { symbol: symbol.to_owned(), is_kernel: false }];
            Sample { thread: "t".to_owned(), process_id: 1, period_ns, frames }
        };
        let (a, b) = (sample("f<u8>", 300), sample("g", 100));
        let svg = svg("x", [(&a, "p"), (&b, "p")].into_iter());
        assert!(svg.contains("<title>f&lt;u8&gt; 0.0 ms</title><rect x=\"0.0\"") && svg.contains("width=\"900.0\""), "{svg}");
        assert!(svg.contains("width=\"300.0\"") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_sampled_is_an_empty_graph() {
        assert!(!svg("x", std::iter::empty()).contains("NaN"));
    }
}
