//! `avp-conform`: drives an implementation of the Agent Vector Protocol through the cases of `spec-vectors/`, as
//! JSON lines on its stdin and stdout (spec-vectors/README.md).

mod adapt;
mod case;
mod cli;
mod compare;
mod generate;
mod known;
mod report;
mod run;
mod testee;
mod vectors;

use std::io;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser as _;

use case::Profile;
use cli::Options;
use known::Known;
use report::Report;
use run::{Plan, Selection};
use testee::Testee;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = if options.testee { serve() } else { conform(&options) };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// The other end of `--impl OURS`.
fn serve() -> Result<bool> {
    avp_tests::testee::serve(io::stdin().lock(), io::stdout().lock())?;
    Ok(true)
}

/// Whether everything came as expected.
fn conform(options: &Options) -> Result<bool> {
    let cases = vectors::load(&options.vectors)?;
    let known = options.known.as_deref().map(Known::read).transpose()?.unwrap_or_default();
    known.check(&cases)?;
    let selection = Selection { suites: &options.suites, case: options.case.as_deref() };
    let chosen = selection.of(&cases)?;
    let profiles = match options.profiles.as_slice() {
        [] => &[Profile::Strict, Profile::Lenient],
        chosen => chosen,
    };
    let mut testee = Testee::new(options.command()?, options.timeout);
    let about = testee.describe()?;
    let plan = Plan { profiles, known: &known, codes: about.codes, fail_fast: options.fail_fast };
    let results = run::run(&mut testee, &chosen, &plan);
    if results.is_empty() {
        bail!("nothing was chosen to run");
    }
    let report = Report { about, profiles: profiles.to_vec(), results };
    report.print()?;
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if let Some(path) = &options.junit {
        report.write_junit(path)?;
    }
    let published = match (&options.markdown, &options.markdown_check) {
        (Some(path), _) => report.write_markdown(path).map(|()| true)?,
        (None, Some(path)) => report.check_markdown(path)?,
        (None, None) => true,
    };
    Ok(report.is_as_expected() && published)
}
