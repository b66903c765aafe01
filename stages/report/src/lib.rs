//! How results are shown: one page per run, made of sections that the stages write.
//!
//! Owns the HTML (escaped by construction), the page with its style and few lines of script, plots as inline SVG and
//! boxes drawn on pictures. A page is one file that opens from disk and asks the network for nothing. Refuses to own
//! numbers and judgements: what is good or bad is said by the stage that measured it.

pub mod csv;
pub mod draw;
mod font;
pub mod html;
pub mod legend;
pub mod number;
pub mod page;
pub mod plot;

pub use html::{Cell, Column, Element, Figure, Html, Picture, Table, el};
pub use legend::Legend;
pub use page::{Headline, RunHeader, Section, StageRow, Tone, page};
