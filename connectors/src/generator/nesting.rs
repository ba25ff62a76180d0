//! Refuses brackets within brackets before they are parsed: the engine's parser tries each
//! pair as several things, one after the other, and what is inside anew each time.

use regorus::Source;
use regorus::unstable::{Lexer, TokenKind};

use super::GeneratorError;
use super::error::MODULE;

/// Most tokens that the parser may look at, those looked at again included.
const LOOKS: u64 = 500_000;

/// Counts how often tokens are looked at, at worst.
pub(super) fn check(rego: &str) -> Result<(), GeneratorError> {
    let syntax = |error: anyhow::Error| GeneratorError::syntax(&error);
    let source = Source::from_contents(MODULE.to_owned(), rego.to_owned()).map_err(syntax)?;
    let mut lexer = Lexer::new(&source);
    let (mut looks, mut outer, mut each) = (0_u64, Vec::new(), 1_u64);
    loop {
        let token = lexer.next_token().map_err(syntax)?;
        let factor = match (&token.0, token.1.text()) {
            (TokenKind::Eof, _) => return Ok(()),
            // A comprehension or an array.
            (TokenKind::Symbol, "[") => Some(2),
            // A comprehension, a set or an object.
            (TokenKind::Symbol, "{") => Some(3),
            (TokenKind::Symbol, "]" | "}") => {
                each = outer.pop().unwrap_or(1);
                None
            }
            _ => None,
        };
        if let Some(factor) = factor {
            outer.push(each);
            each = each.saturating_mul(factor);
        }
        looks = looks.saturating_add(each);
        if looks > LOOKS {
            return Err(GeneratorError::Refused {
                line: token.1.line,
                what: "brackets are nested too deeply: give what is in them names".to_owned(),
            });
        }
    }
}
