//! Lists that a CA gives page by page: when they end.

use std::collections::BTreeSet;

use certlib_core::{Error, Result};
use certlib_net::Answer;

/// What was read of a list so far. Servers may give fewer entries at once than they were asked for, so that a short page
/// says nothing: a list ends where the total says so, or at an empty page.
#[derive(Debug)]
pub(crate) struct Pages {
    operation: &'static str,
    size: usize,
    seen: BTreeSet<String>,
}

impl Pages {
    /// A list that is asked for `size` entries at once.
    pub(crate) fn new(operation: &'static str, size: usize) -> Self {
        Self { operation, size, seen: BTreeSet::new() }
    }

    /// How many different entries were read.
    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Notes the entries of a page by their ids, and says whether there is another page; `total` is how many entries there
    /// are in all, if the CA says that.
    ///
    /// # Errors
    /// `IoPermanent` `pages_ignored` when the CA gives the same page again although there must be more.
    pub(crate) fn goes_on(&mut self, ids: impl IntoIterator<Item = String>, total: Option<usize>) -> Result<bool> {
        let (before, mut length) = (self.seen.len(), 0);
        for id in ids {
            self.seen.insert(id);
            length += 1;
        }
        if length == 0 || total.is_some_and(|total| self.seen.len() >= total) {
            return Ok(false);
        }
        if self.seen.len() > before {
            return Ok(true);
        }
        if total.is_none() && length < self.size {
            return Ok(false);
        }
        let why = "the CA gives the same page of a list again and again";
        Err(Error::permanent(self.operation, "pages_ignored", why).with("entries", length))
    }
}

/// A number in a header.
pub(crate) fn total(answer: &Answer, header: &str) -> Option<usize> {
    answer.header(header)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: std::ops::Range<usize>) -> Vec<String> {
        ids.map(|id| id.to_string()).collect()
    }

    #[test]
    fn short_pages_end_nothing() {
        let mut pages = Pages::new("test", 10);
        assert!(pages.goes_on(page(0..3), None).unwrap());
        assert!(pages.goes_on(page(3..5), None).unwrap());
        assert!(!pages.goes_on(page(0..0), None).unwrap());
        assert_eq!(pages.count(), 5);
    }

    #[test]
    fn totals_end_a_list() {
        let mut pages = Pages::new("test", 10);
        assert!(pages.goes_on(page(0..10), Some(12)).unwrap());
        assert!(!pages.goes_on(page(9..12), Some(12)).unwrap());
    }

    #[test]
    fn the_same_page_again_is_noticed() {
        let mut pages = Pages::new("test", 10);
        assert!(pages.goes_on(page(0..10), None).unwrap());
        assert_eq!(pages.goes_on(page(0..10), None).unwrap_err().code(), "pages_ignored");
        let mut pages = Pages::new("test", 10);
        assert!(pages.goes_on(page(0..4), None).unwrap());
        assert!(!pages.goes_on(page(0..4), None).unwrap(), "all there is");
        let mut pages = Pages::new("test", 10);
        assert!(pages.goes_on(page(0..4), Some(8)).unwrap());
        assert_eq!(pages.goes_on(page(0..4), Some(8)).unwrap_err().code(), "pages_ignored");
    }
}
