//! Bar charts as SVG: for each workload the engines below one another, the longest bar as wide as
//! its panel.

use super::{Section, TableLine, number};

const WIDTH: usize = 900;
const NAMES_WIDTH: usize = 90;
const LABEL_WIDTH: usize = 90;
const BAR: usize = 14;
const GAP: usize = 4;
const PANEL_HEAD: usize = 26;
const HEAD: usize = 34;

/// One colour for each column, the floor grey.
const COLOURS: [&str; 7] = [
    "#999999", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9",
];

/// The first figure of a section.
pub(super) fn draw(section: &Section, lines: &[TableLine], columns: &[String]) -> String {
    let drawn = section.figures.first().map(|(figure, _)| *figure);
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| Some(line.figure) == drawn)
        .collect();
    let panels: usize = lines.iter().map(|line| panel_height(line)).sum();
    let height = HEAD + panels;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let title = match drawn {
        Some(figure) if figure != "per_s" => format!("{}: {figure}", section.title),
        _ => section.title.to_owned(),
    };
    svg += &text(8, 22, "font-size=\"16\"", &title);
    let mut top = HEAD;
    for line in lines {
        svg += &panel(line, columns, top);
        top += panel_height(line);
    }
    svg + "</svg>\n"
}

fn panel_height(line: &TableLine) -> usize {
    PANEL_HEAD + line.cells.iter().flatten().count() * (BAR + GAP)
}

fn panel(line: &TableLine, columns: &[String], top: usize) -> String {
    let mut svg = text(8, top + 18, "font-weight=\"bold\"", &line.workload);
    let longest = line
        .cells
        .iter()
        .flatten()
        .map(|cell| cell.median)
        .fold(0.0, f64::max);
    let room = (WIDTH - NAMES_WIDTH - LABEL_WIDTH) as f64;
    let mut y = top + PANEL_HEAD;
    let named = columns.iter().zip(&line.cells).zip(COLOURS.iter().cycle());
    for ((name, cell), colour) in named {
        let Some(cell) = cell else { continue };
        let width = if longest > 0.0 {
            room * cell.median / longest
        } else {
            0.0
        };
        svg += &text(8, y + BAR - 3, "", name);
        svg += &format!(
            "<rect x=\"{NAMES_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" \
             fill=\"{colour}\"/>\n"
        );
        let behind = NAMES_WIDTH as f64 + width + 6.0;
        svg += &format!(
            "<text x=\"{behind:.1}\" y=\"{}\">{}</text>\n",
            y + BAR - 3,
            number(cell.median)
        );
        y += BAR + GAP;
    }
    svg
}

fn text(x: usize, y: usize, style: &str, what: &str) -> String {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x}\" y=\"{y}\" {style}>{what}</text>\n")
}
