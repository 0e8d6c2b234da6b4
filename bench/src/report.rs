//! Where figures go: to the terminal, and to results/, one folder per machine and date with the raw JSON, the tables and the plots of each measurement.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::provenance::Provenance;

/// How a measurement reports; the same for all.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ReportArgs {
    /// Also write tables, JSON and plots to DIR/MACHINE/DATE, for results/; what that folder has of the same name is replaced
    #[arg(long, value_name = "DIR")]
    pub(crate) results: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// One measurement, ready to be published.
pub(crate) struct Page<'a, T> {
    /// Of its files, without extension: what was measured, in lower case with hyphens.
    pub(crate) name: &'a str,
    /// In words.
    pub(crate) title: &'a str,
    pub(crate) figures: &'a T,
    pub(crate) provenance: &'a Provenance,
    /// Tables, and how they are to be read, as Markdown.
    pub(crate) text: &'a str,
    /// Name without extension, and SVG.
    pub(crate) plots: Vec<(String, String)>,
}

impl ReportArgs {
    /// Prints the page, and writes it where asked to.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn publish<T: Serialize>(&self, page: &Page<'_, T>) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(page.figures)?);
        } else {
            println!("{}\n\n{}", page.provenance, page.text);
        }
        self.keep(page)
    }

    /// Writes the page where asked to, for measurements that print as they go.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn keep<T: Serialize>(&self, page: &Page<'_, T>) -> Result<()> {
        let Some(results) = &self.results else { return Ok(()) };
        let folder = page.provenance.folder(results);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let write = |name: &str, extension: &str, text: &str| -> Result<()> {
            let path: &Path = &folder.join(name).with_extension(extension);
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))
        };
        write(page.name, "json", &(serde_json::to_string_pretty(page.figures)? + "\n"))?;
        let mut markdown = format!("# {}\n\n{}\n\n{}\n", page.title, page.provenance, page.text.trim_end());
        for (name, svg) in &page.plots {
            write(name, "svg", svg)?;
            markdown.push_str(&format!("\n![{}]({name}.svg)\n", name.replace('-', " ")));
        }
        write(page.name, "md", &markdown)?;
        eprintln!("written: {}", folder.join(page.name).with_extension("md").display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_raw_figures_and_its_plots_beside_it_and_is_replaced_by_the_next() {
        let results = tempfile::tempdir().unwrap();
        let args = ReportArgs { results: Some(results.path().to_owned()), json: true };
        let provenance = Provenance::of_this_run();
        for rate in [1, 2] {
            let text = format!("| rate |\n| --- |\n| {rate} |");
            let plots = vec![("rate-by-size".to_owned(), "<svg/>".to_owned())];
            let figures = serde_json::json!({ "rate": rate });
            args.publish(&Page { name: "rate", title: "Rates", figures: &figures, provenance: &provenance, text: &text, plots }).unwrap();
        }
        let folder = provenance.folder(results.path());
        assert!(folder.starts_with(results.path()) && folder.ends_with(&provenance.date));
        let page = fs::read_to_string(folder.join("rate.md")).unwrap();
        assert!(page.starts_with("# Rates\n") && page.contains("| 2 |") && !page.contains("| 1 |"), "{page}");
        assert!(page.contains("![rate by size](rate-by-size.svg)") && page.contains(&provenance.command), "{page}");
        assert_eq!(fs::read_to_string(folder.join("rate-by-size.svg")).unwrap(), "<svg/>");
        let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("rate.json")).unwrap()).unwrap();
        assert_eq!(json["rate"], 2);
    }
}
