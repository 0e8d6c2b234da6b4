//! Line plots as SVG, readable on light and on dark pages: colours come from a style sheet that follows the reader's preference.

pub(crate) mod bars;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// Ticks of a linear axis, about.
const TICKS: f64 = 6.0;

/// Lines are told apart by colour and by mark. The colours are those of Okabe and Ito, which the colour-blind can tell apart; on dark pages the dark ones are lighter.
const STYLE: &str = "\
svg{background:#fff;font:13px sans-serif}text{fill:#222}.g{stroke:#ddd}.a{stroke:#666}.l{fill:none;stroke-width:2}.d{stroke-dasharray:6 4}\
.c0{stroke:#0072b2;color:#0072b2}.c1{stroke:#222;color:#222}.c2{stroke:#d55e00;color:#d55e00}.c3{stroke:#009e73;color:#009e73}.c4{stroke:#b8579a;color:#b8579a}\
.m{fill:currentColor;stroke:none}\
@media(prefers-color-scheme:dark){svg{background:#161b22}text{fill:#ddd}.g{stroke:#333}.a{stroke:#999}\
.c0{stroke:#56b4e9;color:#56b4e9}.c1{stroke:#eee;color:#eee}.c2{stroke:#e69f00;color:#e69f00}.c4{stroke:#dd8fc3;color:#dd8fc3}}";
const COLOURS: usize = 5;

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    /// Powers of ten at equal distances.
    pub(crate) logarithmic: bool,
    /// What the axis shows at least.
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// A line with a mark at each point.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) style: Style,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Marked,
    Dashed,
    Plain,
    /// Marks alone.
    Dots,
}

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

impl Axis {
    /// Widens the axis to hold `values`.
    fn around(&self, values: impl Iterator<Item = f64>) -> Axis {
        let (from, to) =
            values.filter(|value| value.is_finite()).fold((self.from, self.to), |(from, to), value| (from.min(value), to.max(value)));
        Axis { from, to: if to > from { to } else { from + 1.0 }, ..self.clone() }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let at = |value: f64| if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        (at(value) - at(self.from)) / (at(self.to) - at(self.from))
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let (first, last) = (self.from.log10().floor() as i32, self.to.log10().ceil() as i32);
            let decades: Vec<f64> = (first..=last).map(|power| 10_f64.powi(power)).collect();
            // Within few decades the steps between are worth a tick.
            let steps: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let ticks = decades.iter().flat_map(|decade| steps.iter().map(move |step| decade * step));
            return ticks.filter(|tick| (-1e-9..=1.0 + 1e-9).contains(&self.place(*tick))).collect();
        }
        let rough = (self.to - self.from) / TICKS;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade).into_iter().find(|&step| step >= rough).unwrap_or(decade);
        let first = (self.from / step - 1e-9).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).collect()
    }
}

impl Plot {
    /// The plot as the text of an SVG file.
    pub(crate) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let (x, y) = (self.x.around(points().map(|(x, _)| x)), self.y.around(points().map(|(_, y)| y)));
        let at_x = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let at_y = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
             <style>{STYLE}</style>\n<title>{title}</title>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n",
            title = escaped(&self.title)
        );
        let mut put = |text: String| {
            svg.push_str(&text);
            svg.push('\n');
        };
        for tick in x.ticks() {
            let at = at_x(tick);
            put(format!("<path class=\"g\" d=\"M{at:.1} {TOP}V{bottom}\"/>"));
            put(format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", bottom + 18.0, number(tick)));
        }
        for tick in y.ticks() {
            let at = at_y(tick);
            put(format!("<path class=\"g\" d=\"M{LEFT} {at:.1}H{right}\"/>"));
            put(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, number(tick)));
        }
        put(format!("<path class=\"a\" fill=\"none\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>"));
        let middle = (LEFT + right) / 2.0;
        put(format!("<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", HEIGHT - 14.0, escaped(x.label)));
        let middle = (TOP + bottom) / 2.0;
        put(format!("<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>", escaped(y.label)));
        for (index, line) in self.lines.iter().enumerate() {
            let colour = index % COLOURS;
            let places: Vec<(f64, f64)> = line.points.iter().map(|&(x, y)| (at_x(x), at_y(y))).collect();
            if line.style != Style::Dots {
                let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
                let dashed = if line.style == Style::Dashed { " d" } else { "" };
                put(format!("<polyline class=\"l c{colour}{dashed}\" points=\"{}\"/>", path.join(" ")));
            }
            if matches!(line.style, Style::Marked | Style::Dots) {
                places.iter().for_each(|&(x, y)| put(mark(index, colour, x, y)));
            }
            let row = TOP + 14.0 + index as f64 * 22.0;
            match line.style {
                Style::Dots => put(mark(index, colour, right + 28.0, row - 4.0)),
                style => {
                    let dashed = if style == Style::Dashed { " d" } else { "" };
                    put(format!("<path class=\"l c{colour}{dashed}\" d=\"M{:.1} {:.1}h24\"/>", right + 16.0, row - 4.0));
                    if style == Style::Marked {
                        put(mark(index, colour, right + 28.0, row - 4.0));
                    }
                }
            }
            put(format!("<text x=\"{:.1}\" y=\"{row:.1}\">{}</text>", right + 46.0, escaped(&line.name)));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Circle, square, triangle, diamond in turn.
fn mark(index: usize, colour: usize, x: f64, y: f64) -> String {
    let shape = match index % 4 {
        0 => format!("<circle class=\"m\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        1 => format!("<path class=\"m\" d=\"M{:.1} {:.1}h7v7h-7z\"/>", x - 3.5, y - 3.5),
        2 => format!("<path class=\"m\" d=\"M{x:.1} {:.1}l4.5 8h-9z\"/>", y - 5.0),
        _ => format!("<path class=\"m\" d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"/>", y - 5.0),
    };
    format!("<g class=\"c{colour}\">{shape}</g>")
}

/// A tick in as few digits as it has.
fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        let text = format!("{value:.0}");
        return format!("{},{}", &text[..text.len() - 3], &text[text.len() - 3..]);
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(logarithmic: bool, from: f64, to: f64) -> Axis {
        Axis { label: "a < b", logarithmic, from, to }
    }

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        assert_eq!(
            axis(false, 0.0, 1.0).ticks().iter().map(|tick| number(*tick)).collect::<Vec<_>>(),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
        assert_eq!(
            axis(true, 10.0, 10_000.0).ticks().iter().map(|tick| number(*tick)).collect::<Vec<_>>(),
            ["10", "100", "1,000", "10,000"]
        );
        assert_eq!(axis(true, 1.0, 7.0).ticks(), [1.0, 2.0, 5.0]);
    }

    #[test]
    fn points_lie_within_the_frame_and_text_is_escaped() {
        let line = Line { name: "x & y".into(), points: vec![(10.0, 1.0), (1_000.0, 4.0)], style: Style::Marked };
        let plot = Plot { title: "t".into(), x: axis(true, 10.0, 100.0), y: axis(false, 1.0, 2.0), lines: vec![line] };
        let svg = plot.svg();
        // The axes were widened to the points: first at the lower left corner, last at the upper right one.
        assert!(svg.contains("points=\"68.0 364.0 560.0 44.0\""), "{svg}");
        assert!(svg.contains("x &amp; y") && svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_plot_of_nothing_is_an_empty_frame() {
        let plot = Plot { title: String::new(), x: axis(false, 0.0, 0.0), y: axis(false, 0.0, 0.0), lines: Vec::new() };
        assert!(!plot.svg().contains("NaN"));
    }
}
