//! All metrics together.

use super::{
    exposition::Page,
    families::{FAMILIES, Family, Samples, Seen},
    sink_families::SINK_FAMILIES,
};

/// All of them, in the order in which they are served.
pub fn families() -> impl Iterator<Item = &'static Family> + Clone {
    FAMILIES.iter().chain(SINK_FAMILIES)
}

/// All of them with what was seen, as a text.
pub fn page(seen: &Seen) -> String {
    let mut page = Page::default();
    for family in families() {
        page.family(family.name, family.kind, family.help);
        (family.samples)(seen, &mut Samples { page: &mut page, family, ring: &seen.report.ring });
    }
    page.finish()
}
