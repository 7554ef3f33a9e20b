//! How text goes out: UTF-8 (65001), or the code page of an American console (437), which most clients ask for.

/// The upper half of code page 437.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// Text in a code page; what it does not have becomes a question mark. Unknown pages are taken for 437.
pub(crate) fn encode(text: &str, page: u32) -> Vec<u8> {
    if page == 65001 {
        return text.as_bytes().to_vec();
    }
    let byte = |character: char| {
        if character.is_ascii() {
            return u8::try_from(character).unwrap_or(b'?');
        }
        let at = UPPER.chars().position(|known| known == character);
        at.and_then(|at| u8::try_from(at + 0x80).ok()).unwrap_or(b'?')
    };
    text.chars().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_decides_what_can_be_said() {
        assert_eq!(UPPER.chars().count(), 128);
        assert_eq!(encode("aä≈漢", 437), [b'a', 0x84, 0xf7, b'?']);
        assert_eq!(encode("ä", 65001), "ä".as_bytes());
    }
}
