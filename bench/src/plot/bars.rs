//! Horizontal bars in panels, each panel with a scale of its own: how long each of several programs takes in each of several situations.

use super::{STYLE, escaped};

const WIDTH: f64 = 760.0;
/// Of the names at the left.
const NAMES: f64 = 170.0;
/// Of the figures behind the longest bar.
const FIGURES: f64 = 80.0;
const TITLE: f64 = 44.0;
const PANEL_TITLE: f64 = 26.0;
const ROW: f64 = 21.0;
const THICKNESS: f64 = 14.0;
const PANEL_GAP: f64 = 18.0;

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

/// A situation.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// One of its figures.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// From the least to the most.
    pub(crate) range: (f64, f64),
    pub(crate) label: String,
    pub(crate) highlighted: bool,
}

impl Bars {
    /// The plot as the text of an SVG file.
    pub(crate) fn svg(&self) -> String {
        let panel_height = |panel: &Panel| PANEL_TITLE + ROW * panel.bars.len() as f64 + PANEL_GAP;
        let height = TITLE + self.panels.iter().map(panel_height).sum::<f64>();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
             <style>{STYLE}</style>\n<title>{title}</title>\n<text x=\"16\" y=\"26\" font-size=\"15\">{title}</text>\n",
            title = escaped(&self.title)
        );
        let mut top = TITLE;
        for panel in &self.panels {
            svg += &format!("<text x=\"16\" y=\"{:.1}\" font-weight=\"bold\">{}</text>\n", top + 14.0, escaped(&panel.title));
            top += PANEL_TITLE;
            let longest = panel.bars.iter().map(|bar| bar.range.1.max(bar.value)).fold(f64::MIN_POSITIVE, f64::max);
            let width = |value: f64| (value / longest).clamp(0.0, 1.0) * (WIDTH - NAMES - FIGURES);
            for bar in &panel.bars {
                svg += &bar.svg(top, width);
                top += ROW;
            }
            top += PANEL_GAP;
        }
        svg + "</svg>\n"
    }
}

impl Bar {
    fn svg(&self, top: f64, width: impl Fn(f64) -> f64) -> String {
        let class = if self.highlighted { "c0" } else { "c1" };
        let opacity = if self.highlighted { 1.0 } else { 0.45 };
        let (baseline, middle) = (top + THICKNESS - 3.0, top + THICKNESS / 2.0);
        let (least, most) = (NAMES + width(self.range.0), NAMES + width(self.range.1));
        let weight = if self.highlighted { " font-weight=\"bold\"" } else { "" };
        format!(
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\"{weight}>{}</text>\n\
             <g class=\"{class}\"><rect class=\"m\" x=\"{NAMES}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{THICKNESS}\" fill-opacity=\"{opacity}\"/></g>\n\
             <path class=\"a\" d=\"M{least:.1} {middle:.1}H{most:.1}\"/>\n\
             <text x=\"{:.1}\" y=\"{baseline:.1}\"{weight}>{}</text>\n",
            NAMES - 8.0,
            escaped(&self.name),
            width(self.value).max(1.0),
            most.max(NAMES + width(self.value)) + 8.0,
            escaped(&self.label),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width_and_the_others_are_in_proportion() {
        let bar = |name: &str, value| Bar {
            name: name.into(),
            value,
            range: (value, value),
            label: format!("{value} s"),
            highlighted: value < 2.0,
        };
        let panel = Panel { title: "a & b".into(), bars: vec![bar("<x>", 1.0), bar("y", 4.0)] };
        let svg = Bars { title: "t".into(), panels: vec![panel] }.svg();
        let full = WIDTH - NAMES - FIGURES;
        assert!(svg.contains(&format!("width=\"{full:.1}\"")) && svg.contains(&format!("width=\"{:.1}\"", full / 4.0)), "{svg}");
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;x&gt;") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn bars_of_nothing_have_no_width_that_is_no_number() {
        let bar = Bar { name: String::new(), value: 0.0, range: (0.0, 0.0), label: String::new(), highlighted: false };
        let svg = Bars { title: String::new(), panels: vec![Panel { title: String::new(), bars: vec![bar] }] }.svg();
        assert!(!svg.contains("NaN"));
    }
}
