//! CPU time of the matcher: against the peer, by vector instructions, over cores, and with many templates.
//!
//! Owns what is timed and how: everything in one process, a sheet as grey pixels in memory, the median of some repeats.
//! Refuses to pass or fail anything.

use image::GrayImage;
use miette::{Report, Result};
use rayon::prelude::*;
use serde_json::{Value, json};
use synth::{Set, SynthSettings};
use vision::matcher::{Matcher, MatcherConfig, Poses, Simd, Template};

use super::case::{self, Case, config, pool, timed};
use super::metrics::Quality;
use super::{LabelsBench, Told, sets, share};

/// Times that a sheet is labelled; the median counts.
const REPEATS: usize = 5;
/// Templates of the large library, and of the one of real drawings.
const MANY: u32 = 300;
const DIRTY: u32 = 32;
/// Sheets for each thread when cores are compared.
const A_THREAD: u64 = 4;

/// The instruction sets that the matcher can use here, widest first, with their names.
fn instruction_sets() -> impl Iterator<Item = (Simd, &'static str)> {
    Simd::ALL.into_iter().rev().filter(|simd| simd.is_available()).map(|simd| (simd, simd.name()))
}

/// Names of the instruction sets that the matcher can use here, widest first.
pub fn instructions() -> Vec<&'static str> {
    instruction_sets().map(|(_, name)| name).collect()
}

/// The peer's poses: quarter turns, scale .8 to 1.25 of the template, without stretch.
fn peers_poses() -> MatcherConfig {
    let poses = Poses { stretch: 1.0, ..Poses::default() };
    MatcherConfig { poses, ..MatcherConfig::default() }
}

/// Median CPU seconds of labelling a sheet on one thread.
fn median_cpu_s(matcher: &Matcher, sheet: &GrayImage) -> Result<f64> {
    let pool = pool(1)?;
    // The first one prepares templates at the sheet's scale.
    pool.install(|| matcher.find_grey(sheet));
    let mut times: Vec<f64> = (0..REPEATS).map(|_| timed(&pool, || matcher.find_grey(sheet)).1).collect();
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn grey(case: &Case<'_>, index: u64) -> Result<GrayImage> {
    Ok(image::imageops::grayscale(&(case.sheets)(index)?.image))
}

fn prepared(templates: &[Template], config: &MatcherConfig) -> Result<Matcher> {
    Matcher::new(templates, config).map_err(Report::from_err)
}

/// All speed tables.
pub fn run(told: &mut Told<'_>, args: &LabelsBench) -> Result<()> {
    against_the_peer(told, args)?;
    over_cores(told, args)?;
    by_templates(told, args)
}

fn against_the_peer(told: &mut Told<'_>, args: &LabelsBench) -> Result<()> {
    let (mut rows, mut docs) = (Vec::new(), Vec::new());
    for set in [Set::A, Set::L] {
        let templates = sets::clean(&set.settings(), args.seed)?;
        let case = sets::drawn(set.settings(), args.seed, args.peer_sheets, templates, peers_poses())?;
        told.doing(format_args!("{}: {} templates", case.name, case.templates.len()));
        let outcome = case::run(&case, 1)?;
        let ours = Quality::of(&outcome.truth, &outcome.found);
        let sheets = case.range.clone().map(|i| grey(&case, i)).collect::<Result<Vec<_>>>()?;
        let matcher = prepared(&case.templates, &case.config)?;
        let megapixels = outcome.cost.megapixels / sheets.len() as f64;
        let peer = super::peer(told, args, &case)?;
        let theirs = peer.as_ref().map(|p| Quality::of(&p.truth, &p.found));
        for (simd, name) in instruction_sets() {
            Simd::limit(simd);
            let each = sheets.iter().map(|s| median_cpu_s(&matcher, s)).collect::<Result<Vec<f64>>>();
            Simd::limit(Simd::Avx512);
            let each = each?;
            let cpu_s = each.iter().sum::<f64>() / each.len() as f64;
            let ratio = peer.as_ref().map(|p| p.match_per_sheet() / cpu_s);
            let figure = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
            rows.push(vec![
                case.name.clone(),
                name.to_owned(),
                format!("{cpu_s:.3}"),
                format!("{:.1}", megapixels / cpu_s),
                share(ours.counts.f1),
                figure(peer.as_ref().map(peer_calls), 0),
                figure(peer.as_ref().map(super::Peer::match_per_sheet), 1),
                figure(peer.as_ref().map(super::Peer::per_sheet), 1),
                share(theirs.as_ref().map(|q| q.best_f1)),
                figure(ratio, 0),
            ]);
            docs.push(json!({
                "sheet": case.name, "instructions": name, "templates": case.templates.len(),
                "sheets": sheets.len(), "repeats": REPEATS, "cpu_s": cpu_s, "megapixels_per_cpu_s": megapixels / cpu_s,
                "f1": ours.counts.f1, "peer": peer, "peer_best_f1": theirs.as_ref().map(|q| q.best_f1), "ratio": ratio,
            }));
        }
    }
    let head = [
        "sheet",
        "instructions",
        "CPU s",
        "MPx a CPU s",
        "F1",
        "OpenCV calls",
        "their CPU s",
        "with peaks",
        "best F1",
        "calls / ours",
    ];
    told.table("speed", "A sheet on one thread, quarter turns, scale .8 to 1.25:", &head, rows, docs);
    Ok(())
}

fn peer_calls(peer: &super::Peer) -> f64 {
    peer.calls as f64
}

fn over_cores(told: &mut Told<'_>, args: &LabelsBench) -> Result<()> {
    let cores = engine::Machine::probe().cores;
    let mut counts: Vec<usize> = (0..usize::BITS).map(|k| 1 << k).take_while(|n| *n < cores).collect();
    counts.push(cores);
    let templates = sets::clean(&Set::A.settings(), args.seed)?;
    let case = sets::drawn(Set::A.settings(), args.seed, A_THREAD * cores as u64, templates, peers_poses())?;
    told.doing(format_args!("{} sheets side by side", case.range.end));
    let sheets = case.range.clone().map(|i| grey(&case, i)).collect::<Result<Vec<_>>>()?;
    let matcher = prepared(&case.templates, &case.config)?;
    let (mut rows, mut docs, mut alone) = (Vec::new(), Vec::new(), None);
    for threads in counts {
        let pool = pool(threads)?;
        let label = || sheets.par_iter().map(|s| matcher.find_grey(s).matches.len()).sum::<usize>();
        pool.install(label);
        let (_, cpu_s, wall_s) = timed(&pool, label);
        let rate = sheets.len() as f64 / wall_s;
        let gain = rate / *alone.get_or_insert(rate);
        rows.push(vec![
            threads.to_string(),
            format!("{rate:.1}"),
            format!("{gain:.2}"),
            format!("{:.3}", cpu_s / sheets.len() as f64),
        ]);
        docs.push(
            json!({ "threads": threads, "sheets_per_s": rate, "gain": gain, "cpu_s": cpu_s / sheets.len() as f64 }),
        );
    }
    let head = ["threads", "sheets/s", "gain", "CPU s a sheet"];
    told.table("cores", "Sheets of 2000x1500 side by side:", &head, rows, docs);
    Ok(())
}

fn by_templates(told: &mut Told<'_>, args: &LabelsBench) -> Result<()> {
    let few = Set::A.settings();
    let many = |s: &SynthSettings, n: u32, have: usize| SynthSettings { invented: n - have as u32, ..s.clone() };
    let library = sets::clean(&few, args.seed)?;
    let large = sets::clean(&many(&few, MANY, library.len()), args.seed)?;
    let dirty = many(&Set::E.settings(), DIRTY, library.len());
    let dirty = SynthSettings { width: 3300, height: 2099, symbols: [130, 160], ..dirty };
    let cut = sets::cut(&dirty, args.seed)?;
    let defaults = config(json!({}), &cut)?;
    let cases = [
        ("clean, the peer's poses", few.clone(), library, peers_poses()),
        ("clean, the peer's poses", few, large, peers_poses()),
        ("cut from a drawing, default settings", dirty, cut, defaults),
    ];
    let (mut rows, mut docs, mut base) = (Vec::new(), Vec::<Value>::new(), None);
    for (what, settings, templates, config) in cases {
        let n = templates.len();
        told.doing(format_args!("{n} templates, {what}"));
        let case = sets::drawn(settings, args.seed, 1, templates, config)?;
        let sheet = grey(&case, 0)?;
        let matcher = prepared(&case.templates, &case.config)?;
        let cpu_s = median_cpu_s(&matcher, &sheet)?;
        let same = case.config == peers_poses();
        let ratio = same.then(|| cpu_s / *base.get_or_insert(cpu_s));
        let times = ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        rows.push(vec![what.to_owned(), case.name.clone(), n.to_string(), format!("{cpu_s:.3}"), times]);
        docs.push(
            json!({ "what": what, "sheet": case.name, "templates": n, "cpu_s": cpu_s, "times_the_first": ratio }),
        );
    }
    let head = ["templates", "sheet", "number", "CPU s", "times the first"];
    told.table("templates", "More templates, and templates of real drawings, on one thread:", &head, rows, docs);
    Ok(())
}
