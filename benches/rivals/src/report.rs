//! Tables and bar charts from the JSON lines of a run.

mod bars;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::results::{FLOOR, Line, Row, Run};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What a run has written.
    results: PathBuf,
    /// The document that gets the tables, between its two marks; charts go beside it.
    #[arg(long, default_value = "../RESULTS.md")]
    into: PathBuf,
}

/// Where the tables go, in a document that holds more.
const BEGIN: &str = "<!-- rivals: begin, written by `outlast-rivals report` -->";
const END: &str = "<!-- rivals: end -->";

/// Writes them.
pub(crate) fn report(arguments: &Arguments) -> Result<()> {
    let results = Results::read(&arguments.results)?;
    let document = fs::read_to_string(&arguments.into).unwrap_or_default();
    let mut text = table::head(&results.run);
    for section in SECTIONS {
        let lines = results.lines(section);
        if lines.is_empty() {
            continue;
        }
        let chart = format!("rivals-{}.svg", section.name);
        let picture = bars::draw(section, &lines, &results.columns);
        fs::write(arguments.into.with_file_name(&chart), picture)?;
        text += &table::section(section, &lines, &results.columns);
        text += &format!("\n![{}]({chart})\n", section.title);
    }
    text += &table::notes(&results);
    fs::write(&arguments.into, inserted(&document, &text))?;
    Ok(())
}

/// The document with a new text between the marks, which are added to its end if there are none.
fn inserted(document: &str, text: &str) -> String {
    let parts = document
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let added = || (format!("{}\n\n", document.trim_end()), "\n");
    let (before, after) = parts.map_or_else(added, |(before, after)| (before.to_owned(), after));
    format!("{before}{BEGIN}\n{text}\n{END}{after}")
}

/// A table and its chart: some figures of the workloads whose names begin alike.
#[derive(Debug)]
struct Section {
    name: &'static str,
    title: &'static str,
    workloads: &'static [&'static str],
    /// Figures that have their own line each; the chart has the first.
    figures: &'static [(&'static str, Better)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

use Better::{Less, More};

const SECTIONS: &[Section] = &[
    Section {
        name: "commits",
        title: "Durable commits, records a second",
        workloads: &["put/", "batch/"],
        figures: &[("per_s", More)],
    },
    Section {
        name: "latency",
        title: "Latency of durable commits",
        workloads: &["put/"],
        figures: &[("p50_us", Less), ("p99_us", Less)],
    },
    Section {
        name: "loading",
        title: "Loading, records a second",
        workloads: &["load/"],
        figures: &[("per_s", More)],
    },
    Section {
        name: "reads",
        title: "Reads of one thread, records a second",
        workloads: &["get/", "multi-get-", "scan-"],
        figures: &[("per_s", More)],
    },
    Section {
        name: "overwriting",
        title: "Overwriting at random, durable batches of 100",
        workloads: &["overwrite/"],
        figures: &[
            ("per_s", More),
            ("p99_us", Less),
            ("p99_9_us", Less),
            ("max_us", Less),
            ("write_amplification", Less),
            ("device_write_amplification", Less),
            ("space_amplification", Less),
            ("space_amplification_peak", Less),
            ("settled_amplification", Less),
            ("settled_amplification_peak", Less),
        ],
    },
    Section {
        name: "opening",
        title: "Opening, ms to the first value",
        workloads: &["open/"],
        figures: &[("open_ms", Less)],
    },
    Section {
        name: "memory",
        title: "Peak memory of a stage",
        workloads: &["memory/"],
        figures: &[("peak_anonymous_mib", Less), ("peak_rss_mib", Less)],
    },
    Section {
        name: "disk",
        title: "Size on disk",
        workloads: &["disk/"],
        figures: &[("disk_mib", Less), ("times_the_data", Less)],
    },
    Section {
        name: "compaction",
        title: "Compaction on request",
        workloads: &["compact"],
        figures: &[("seconds", Less)],
    },
];

/// Everything that was measured.
struct Results {
    run: Run,
    rows: Vec<Row>,
    /// The engines, the floor first.
    columns: Vec<String>,
}

/// One line of a table: a cell for each column.
struct TableLine {
    workload: String,
    figure: &'static str,
    better: Better,
    cells: Vec<Option<Cell>>,
}

/// What several rounds say.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    median: f64,
    min: f64,
    max: f64,
    rounds: usize,
}

impl Results {
    fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} holds no run", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(serde_json::from_str::<Line>);
        let Some(Line::Run(run)) = lines.next().transpose()? else {
            bail!("its first line does not describe a run");
        };
        let row = |line| match line? {
            Line::Row(row) => Ok(row),
            Line::Run(_) => bail!("it has two beginnings"),
        };
        let rows = lines.map(row).collect::<Result<_>>()?;
        let engines = run.versions.iter().map(|(name, _)| name.clone());
        let columns = std::iter::once(FLOOR.to_owned()).chain(engines).collect();
        Ok(Self {
            run: *run,
            rows,
            columns,
        })
    }

    fn lines(&self, section: &Section) -> Vec<TableLine> {
        let mut workloads: Vec<&str> = Vec::new();
        for row in &self.rows {
            let is_of = |begin: &&str| row.workload.starts_with(begin);
            if section.workloads.iter().any(is_of) && !workloads.contains(&row.workload.as_str()) {
                workloads.push(&row.workload);
            }
        }
        let line = |workload: &str, (figure, better)| TableLine {
            workload: workload.to_owned(),
            figure,
            better,
            cells: self
                .columns
                .iter()
                .map(|engine| self.cell(engine, workload, figure))
                .collect(),
        };
        let lines = workloads.into_iter().flat_map(|workload| {
            let figures = section.figures.iter();
            figures.map(move |&figure| line(workload, figure))
        });
        lines.collect()
    }

    fn cell(&self, engine: &str, workload: &str, figure: &str) -> Option<Cell> {
        let rows = self.rows.iter();
        let rows = rows.filter(|row| row.engine == engine && row.workload == workload);
        Cell::of(
            rows.filter_map(|row| row.figures.get(figure).copied())
                .collect(),
        )
    }

    /// What rows have to say, each with the engines and the workloads that it is said of.
    fn remarks(&self, of: impl Fn(&Row) -> Option<&String>) -> Vec<Remark<'_>> {
        let mut workloads: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for row in &self.rows {
            let Some(remark) = of(row).map(String::as_str) else {
                continue;
            };
            let said = workloads.entry((&row.engine, remark)).or_default();
            if !said.contains(&row.workload.as_str()) {
                said.push(&row.workload);
            }
        }
        let mut engines: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for ((engine, remark), workloads) in workloads {
            engines.entry((remark, workloads)).or_default().push(engine);
        }
        let remark = |((remark, workloads), engines)| Remark {
            remark,
            engines,
            workloads,
        };
        engines.into_iter().map(remark).collect()
    }
}

/// A way, or why there is none.
struct Remark<'a> {
    remark: &'a str,
    engines: Vec<&'a str>,
    workloads: Vec<&'a str>,
}

impl Cell {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            min: *values.first()?,
            max: *values.last()?,
            rounds: values.len(),
        })
    }
}

impl TableLine {
    /// The column of the best engine; the floor is none.
    fn best(&self) -> Option<usize> {
        let cells = self.cells.iter().enumerate().skip(1);
        let medians = cells.filter_map(|(column, cell)| Some((column, cell.as_ref()?.median)));
        let by_median = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
        let best = match self.better {
            More => medians.max_by(by_median),
            Less => medians.min_by(by_median),
        };
        best.map(|(column, _)| column)
    }
}

/// A number with the digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 1e4 => format!("{:.1} k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests;
