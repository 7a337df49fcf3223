//! Colours, or none.

/// How to emphasise; without colours every method returns its text as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// A style with or without colours.
    pub const fn new(colours: bool) -> Style {
        Style { colours }
    }

    fn sgr(self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// What to look at first.
    pub fn bold(self, text: &str) -> String {
        self.sgr("1", text)
    }

    /// What to look at last.
    pub fn dim(self, text: &str) -> String {
        self.sgr("2", text)
    }

    /// Bad.
    pub fn red(self, text: &str) -> String {
        self.sgr("1;31", text)
    }

    /// Not so bad.
    pub fn yellow(self, text: &str) -> String {
        self.sgr("1;33", text)
    }

    /// Good.
    pub fn green(self, text: &str) -> String {
        self.sgr("1;32", text)
    }

    /// A command to copy.
    pub fn command(self, text: &str) -> String {
        self.sgr("36", text)
    }
}
