use super::*;

fn results(rows: &[Row]) -> Results {
    let run = Run {
        began_at: "2026-01-01T00:00:00Z".to_owned(),
        machine: outlast_tools::machine::Machine::describe(Path::new(".")).unwrap(),
        load_1min_before: 0.0,
        settings: serde_json::from_str(
            r#"{"keys":1,"overwrite_bytes":1,"row_ms":1,"rounds":3,"cache_bytes":1}"#,
        )
        .unwrap(),
        memory_group: None,
        versions: ["a", "b"]
            .map(|name| (name.to_owned(), "1".to_owned()))
            .to_vec(),
    };
    let lines = std::iter::once(Line::Run(Box::new(run)))
        .chain(rows.iter().cloned().map(Line::Row))
        .map(|line| serde_json::to_string(&line).unwrap() + "\n");
    Results::parse(&lines.collect::<String>()).unwrap()
}

fn row(engine: &str, workload: &str, round: usize, per_s: f64) -> Row {
    Row {
        engine: engine.to_owned(),
        round,
        ..Row::of(workload).figure("per_s", per_s)
    }
}

fn measured() -> Results {
    results(&[
        row("floor", "put/1", 1, 400.0),
        row("a", "put/1", 1, 100.0),
        row("a", "put/1", 2, 300.0),
        row("a", "put/1", 3, 200.0),
        row("b", "put/1", 1, 250.0),
        Row {
            engine: "b".to_owned(),
            ..Row::unavailable("put/2", "too <slow>")
        },
        row("a", "put/2", 1, 7.0).way("slowly"),
    ])
}

#[test]
fn a_table_has_medians_and_the_best_in_bold() {
    let results = measured();
    let section = &SECTIONS[0];
    let table = table::section(section, &results.lines(section), &results.columns);
    assert!(
        table.contains("| put/1 | 400 | 200 (100 - 300) | **250** |"),
        "{table}"
    );
    assert!(table.contains("| put/2 | | **7.00** | n/a |"), "{table}");
    let notes = table::notes(&results);
    assert!(notes.contains("- b: too <slow> (put/2)"), "{notes}");
    assert!(notes.contains("- a: slowly (put/2)"), "{notes}");
}

#[test]
fn the_longest_bar_fills_its_panel() {
    let results = measured();
    let section = &SECTIONS[0];
    let svg = bars::draw(section, &results.lines(section), &results.columns);
    for width in ["720.0", "360.0", "450.0"] {
        assert!(
            svg.contains(&format!("width=\"{width}\"")),
            "{width}: {svg}"
        );
    }
    assert_eq!(svg.matches("<rect").count(), 1 + 4, "{svg}");
}

#[test]
fn only_what_is_between_the_marks_changes() {
    let first = inserted("# Results\n\ntext\n", "one");
    let second = inserted(&(first.clone() + "more\n"), "two");
    assert!(first.starts_with("# Results\n\ntext\n\n<!--") && first.contains("\none\n"));
    assert!(second.contains("\ntwo\n") && !second.contains("one") && second.ends_with("more\n"));
}

#[test]
fn numbers_have_few_digits() {
    let shown = [1_234_567.0, 12_345.0, 1234.5, 12.345, 1.234].map(number);
    assert_eq!(shown, ["1.23 M", "12.3 k", "1234", "12.3", "1.23"]);
}

#[test]
fn what_is_no_run_is_refused() {
    let row = serde_json::to_string(&Line::Row(Row::of("x"))).unwrap();
    assert!(Results::parse(&row).is_err());
    assert!(Results::parse("").is_err());
}
