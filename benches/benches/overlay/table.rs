//! Tables: a line for each work, a column for each directory.

use bywash_benches::overlay::Subject;

/// Prints a table under `title`: each row's name, and its cell for each of `subjects`.
pub fn print(title: &str, subjects: &[Subject], rows: impl Iterator<Item = (String, Vec<String>)>) {
    println!("\n{title}\n");
    let names = subjects.iter().map(|subject| subject.name.clone()).collect();
    print_row("", names);
    println!("|{}|{}", "-".repeat(24), format!("{}:|", "-".repeat(13)).repeat(subjects.len()));
    rows.for_each(|(name, cells)| print_row(&name, cells));
}

fn print_row(name: &str, cells: Vec<String>) {
    let cells: String = cells.iter().map(|cell| format!(" {cell:>12} |")).collect();
    println!("| {name:<22} |{cells}");
}
