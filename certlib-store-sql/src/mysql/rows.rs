//! Lists as one JSON parameter, which the server takes apart: one statement text, however long the list is.

use certlib_core::error::Result;
use serde_json::Value;

use super::error::too_large;

/// How large a parameter is meant to be, in bytes.
const COMFORTABLE: usize = 1024 * 1024;
/// What the packet needs besides its largest parameter.
const MARGIN: usize = 64 * 1024;

/// `rows` as JSON arrays that each fit into a packet of `packet` bytes.
///
/// # Errors
/// `Validation` `too_large` when a row does not.
pub(super) fn chunks(operation: &'static str, rows: &[Value], packet: usize) -> Result<Vec<String>> {
    let limit = packet.saturating_sub(MARGIN);
    let mut chunks: Vec<String> = Vec::new();
    for row in rows {
        let row = row.to_string();
        if row.len() + 2 > limit {
            return Err(too_large(operation, row.len(), limit));
        }
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + row.len() + 2 <= COMFORTABLE.min(limit) => {
                chunk.push(',');
                chunk.push_str(&row);
            }
            _ => {
                let mut chunk = String::with_capacity(row.len() + 2);
                chunk.push('[');
                chunk.push_str(&row);
                chunks.push(chunk);
            }
        }
    }
    for chunk in &mut chunks {
        chunk.push(']');
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chunks_hold_every_row_and_keep_to_the_limit() {
        let rows: Vec<_> = (0..50).map(|n| json!([n, "x".repeat(100_000)])).collect();
        let chunks = chunks("test", &rows, 4 * 1024 * 1024).unwrap();
        assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.len() <= COMFORTABLE));
        let back: Vec<Value> =
            chunks.iter().flat_map(|chunk| serde_json::from_str::<Vec<Value>>(chunk).unwrap()).collect();
        assert_eq!(back, rows);
    }

    #[test]
    fn what_fits_no_packet_is_named() {
        let error = chunks("test", &[json!("x".repeat(200_000))], 128 * 1024).unwrap_err();
        assert_eq!(error.code(), "too_large");
        assert!(chunks("test", &[], 0).unwrap().is_empty());
    }
}
