//! A picture of a lag run: latency by percentile, and the lag over time in milliseconds and bytes.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::recorder::Stage;
use super::report::{LagReport, StageLatency};
use super::series::LagSample;
use crate::summary::from_text;

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 900;
/// Of what is drawn over time, each.
const PANEL_HEIGHT: u32 = 260;
const CURVES_HEIGHT: u32 = 420;
const LABELS: (&str, u32) = ("sans-serif", 14);
const TITLE: (&str, u32) = ("sans-serif", 17);
const TITLE_HEIGHT: u32 = 60;

/// Draws the report as SVG. Fails only if a histogram in it cannot be read.
pub fn draw(report: &LagReport) -> anyhow::Result<String> {
    let mut svg = String::new();
    let over_time = over_time(report);
    let panels = u32::try_from(over_time.len())?;
    let size = (WIDTH, TITLE_HEIGHT + CURVES_HEIGHT + panels * PANEL_HEIGHT);
    let whole = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    whole.fill(&WHITE)?;
    for (line, y) in title(report).iter().zip([12, 36]) {
        whole.draw_text(line, &TITLE.into_text_style(&whole), (12, y))?;
    }
    let (_, panels) = whole.split_vertically(TITLE_HEIGHT);
    let (curves, rest) = panels.split_vertically(CURVES_HEIGHT);
    draw_curves(&curves, &report.latency)?;
    let places = rest.split_evenly((over_time.len(), 1));
    for (place, line) in places.iter().zip(&over_time) {
        draw_over_time(place, report, line)?;
    }
    whole.present()?;
    drop((curves, rest, places, panels, whole));
    Ok(svg)
}

/// Something that is drawn over time.
struct Line {
    name: &'static str,
    of: fn(&LagSample) -> f64,
    /// What it may not go above.
    bound: Option<f64>,
}

/// The lag, and what is bounded beside its bound.
fn over_time(report: &LagReport) -> Vec<Line> {
    const KIB: f64 = 1024.0;
    let bound = report.settings.bound;
    let line = |name, of, bound| Line { name, of, bound };
    let mut lines = vec![
        line("lag of the standby's log, ms", |at| at.lag_ms, None),
        line(
            "lag of the standby's log, KiB",
            |at| at.lag_bytes as f64 / KIB,
            None,
        ),
    ];
    if let Some(commits) = bound.commits {
        let most = Some(commits as f64);
        let name = "exposed and its bound, commits";
        lines.push(line(name, |at| at.exposed_commits as f64, most));
    }
    if let Some(bytes) = bound.bytes {
        let most = Some(bytes as f64 / KIB);
        let name = "exposed and its bound, KiB";
        lines.push(line(name, |at| at.exposed_bytes as f64 / KIB, most));
    }
    if bound.ms.is_some() {
        lines.push(line(
            "exposed and its bound, ms",
            |at| at.exposed_ms,
            bound.ms,
        ));
    }
    lines
}

fn title(report: &LagReport) -> [String; 2] {
    let settings = &report.settings;
    let relay = settings.relay.as_deref().unwrap_or("none");
    [
        format!(
            "{} commits/s of {} x {} B for {} s, level {}, policy {}, relay {relay}",
            settings.rate_per_s,
            settings.puts_per_commit,
            settings.value_bytes,
            settings.run_s,
            settings.level,
            settings.policy,
        ),
        format!(
            "outlast {}, {} cores {}, {}, {}",
            report.outlast_version,
            report.machine.cores,
            report.machine.cpu_model,
            report.machine.file_system.kind,
            report.began_at,
        ),
    ]
}

/// Latency by percentile. To the right by nines, so that the tail has as much room as the middle.
fn draw_curves(panel: &Panel<'_>, stages: &[StageLatency]) -> anyhow::Result<()> {
    let curves: Vec<_> = stages.iter().map(curve).collect::<anyhow::Result<_>>()?;
    let points = || curves.iter().flatten();
    let nines = points().map(|point| point.0).fold(1.0, f64::max);
    let lowest = points()
        .map(|point| point.1)
        .fold(f64::INFINITY, f64::min)
        .clamp(1.0, 1e9);
    let highest = points().map(|point| point.1).fold(lowest * 10.0, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .margin(10)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..nines, (lowest * 0.8..highest * 1.3).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("commits that took at most this")
        .y_desc("latency from the intended start")
        .x_labels(8)
        .x_label_formatter(&|nines| percent(*nines))
        .y_label_formatter(&|us| microseconds(*us))
        .label_style(LABELS)
        .light_line_style(WHITE)
        .draw()?;
    for (row, curve) in stages.iter().zip(curves) {
        let style = colour(row.stage).stroke_width(2);
        chart
            .draw_series(LineSeries::new(curve, style))?
            .label(row.stage.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if !stages.is_empty() {
        let legend = &mut chart.configure_series_labels();
        legend
            .position(SeriesLabelPosition::LowerRight)
            .label_font(LABELS);
        legend
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    Ok(())
}

/// Points (nines of the share, microseconds), up to the last commit.
fn curve(row: &StageLatency) -> anyhow::Result<Vec<(f64, f64)>> {
    const STEPS_PER_NINE: u32 = 20;
    let histogram = from_text(&row.histogram_ns_v2_deflate_base64)?;
    let last = (histogram.len().max(10) as f64).log10();
    let steps = (0..).map(|step| f64::from(step) / f64::from(STEPS_PER_NINE));
    let point = |nines: f64| {
        let share = 1.0 - 10_f64.powf(-nines);
        (
            nines,
            (histogram.value_at_quantile(share) as f64 / 1000.0).max(0.001),
        )
    };
    Ok(steps
        .take_while(|nines| *nines <= last)
        .map(point)
        .collect())
}

fn draw_over_time(panel: &Panel<'_>, report: &LagReport, line: &Line) -> anyhow::Result<()> {
    let samples = &report.series.samples;
    let points: Vec<_> = samples
        .iter()
        .map(|sample| (sample.at_ms / 1000.0, (line.of)(sample)))
        .collect();
    let from = points.first().map_or(0.0, |point| point.0);
    let end = points.last().map_or(1.0, |point| point.0).max(from + 0.001);
    let highest = points
        .iter()
        .map(|point| point.1)
        .fold(line.bound.unwrap_or_default(), f64::max)
        .max(0.001);
    let mut chart = ChartBuilder::on(panel)
        .margin(10)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(from..end, 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("s")
        .y_desc(line.name)
        .label_style(LABELS)
        .light_line_style(WHITE)
        .draw()?;
    if let Some((at, lasts)) = report.settings.outage_s {
        let cut = Rectangle::new(
            [(at.max(from), 0.0), ((at + lasts).min(end), highest * 1.1)],
            BLACK.mix(0.08).filled(),
        );
        chart.draw_series([cut])?;
    }
    if let Some(bound) = line.bound {
        let style = BLACK.mix(0.6).stroke_width(1);
        let ends = [(from, bound), (end, bound)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 4, style))?;
    }
    chart.draw_series(LineSeries::new(points, colour(Stage::Replicated)))?;
    Ok(())
}

/// Told apart by those who do not see red and green as two, too.
fn colour(stage: Stage) -> RGBColor {
    match stage {
        Stage::LocalDurable => RGBColor(0x00, 0x72, 0xb2),
        Stage::Received => RGBColor(0xe6, 0x9f, 0x00),
        Stage::Replicated => RGBColor(0xd5, 0x5e, 0x00),
        Stage::Applied => RGBColor(0x00, 0x9e, 0x73),
    }
}

/// 0 nines are 0 %, 1 is 90 %, 3 are 99.9 %.
fn percent(nines: f64) -> String {
    let share = 100.0 - 10_f64.powf(2.0 - nines);
    let decimals = (0..9_usize)
        .find(|decimals| nines <= 2.0 + *decimals as f64)
        .unwrap_or(9);
    format!("{share:.decimals$}%")
}

fn microseconds(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", us / 1e6),
        us if us >= 1e3 => format!("{} ms", us / 1e3),
        us => format!("{us} µs"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lag::report::tests::report;
    use crate::lag::{LagSeries, Latencies};

    #[test]
    fn the_picture_shows_every_stage_and_the_lag() {
        let mut latencies = Latencies::new(Duration::ZERO);
        for us in 1..5000 {
            for (stage, times) in Stage::ALL.into_iter().zip(1..) {
                let reached = Duration::from_micros(us * times);
                latencies.record(stage, Duration::ZERO, reached);
            }
        }
        let svg = draw(&report(&latencies)).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for stage in Stage::ALL {
            assert!(svg.contains(&stage.to_string()), "{stage}");
        }
        for text in ["99.9%", "10 ms", "lag of the standby", "1000 commits/s"] {
            assert!(svg.contains(text), "{text}");
        }
        let lines = Stage::ALL.map(|stage| {
            let RGBColor(red, green, blue) = colour(stage);
            svg.matches(&format!("#{red:02X}{green:02X}{blue:02X}"))
                .count()
        });
        assert_eq!(
            lines,
            [2, 2, 4, 2],
            "a curve and a legend each, and the lag twice"
        );
    }

    #[test]
    fn a_run_in_which_nothing_was_counted_has_a_picture_too() {
        let mut empty = report(&Latencies::new(Duration::ZERO));
        empty.series = LagSeries::default();
        assert!(draw(&empty).unwrap().contains("</svg>"));
    }

    #[test]
    fn percents_have_the_digits_that_they_need() {
        let labels: Vec<_> = [0.0, 0.5, 1.0, 2.0, 3.0, 4.5].map(percent).to_vec();
        assert_eq!(labels, ["0%", "68%", "90%", "99%", "99.9%", "99.997%"]);
    }
}
