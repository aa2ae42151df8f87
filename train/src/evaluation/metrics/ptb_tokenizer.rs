//! The Penn-Treebank tokenizer of coco-caption (Stanford's of 2014), as far as captions go.
//!
//! It is a lexer: at each place the rule with the longest match wins, the first of several. Some rules look ahead:
//! what they look at counts for the length and is not taken. So an abbreviation's period is doubled where a new
//! sentence follows, be it on the next line: captions are tokenized together, as there.

use std::sync::{LazyLock, Mutex, PoisonError};

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind, PatternID};

/// Not counted as words of a caption. Brackets are named in upper case in the list of coco-caption and in lower case
/// among the tokens, so they do count.
const PUNCTUATION: [&str; 13] = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

/// The words of captions, in lower case and without punctuation, as coco-caption's metrics see them.
pub fn caption_tokens(captions: &[&str]) -> Vec<Vec<String>> {
    let mut lines = ptb_tokens(captions).into_iter();
    let words = |line: Vec<String>| {
        let tokens = line.into_iter().map(|token| token.to_lowercase());
        let words = tokens.filter(|token| !PUNCTUATION.contains(&token.as_str()));
        // Tokens of several words have spaces inside that do not break; the metrics' do.
        words.flat_map(|token| token.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    captions.iter().map(|_| lines.next().map(words).unwrap_or_default()).collect()
}

/// What becomes of a match.
#[derive(Clone, Copy)]
enum Action {
    /// It is a token, but for so many characters at its end.
    Token(usize),
    /// A token but for the contraction that follows it.
    BeforeContraction,
    /// A token up to its first period.
    ToPeriod,
    /// A token up to what stands before its first period.
    BeforePeriod,
    /// A token up to the white space that ends a sentence; its period is read once more.
    PeriodTwice,
    /// A token of this text, but for so many characters at its end.
    Written(&'static str, usize),
    /// Three or four hyphens are written as two.
    Hyphens,
    /// Nothing.
    Skip,
    /// The line ends.
    NewLine,
}
use Action::{BeforeContraction, BeforePeriod, Hyphens, NewLine, PeriodTwice, Skip, ToPeriod, Token, Written};

/// Parts of patterns: `{NAME}` in a pattern or in a later part stands for one.
const PARTS: &[(&str, &str)] = &[
    ("SPACE", r"[ \t\u{A0}\u{2000}-\u{200A}\u{3000}]"),
    ("SPACE_OR_LINE", r"[ \t\u{A0}\u{2000}-\u{200A}\u{3000}\r\n\u{2028}\u{2029}\u{B}\u{C}\u{85}]"),
    (
        "TAG",
        concat!(
            r"<(?:[!?][A-Za-z\-][^>\r\n]*|",
            r"/?[A-Za-z][A-Za-z0-9_:.\-]*(?: +(?:[A-Za-z][A-Za-z0-9_:.\-]*(?: *= *(?:'[^'\r\n]*'|",
            r"\x22[^\x22\r\n]*\x22))?))* */?)>",
        ),
    ),
    ("NEW_SENTENCE", r"{SPACE_OR_LINE}(?:{SPACE_OR_LINE}|[\p{Uppercase}]|{TAG})"),
    ("DIGIT", r"[\p{Nd}&&\p{Age=6.3}&&\x00-\u{FFFF}]"),
    // What Java of the tokenizer's time took for letters: those of one UTF-16 unit in Unicode 6.
    ("JAVA_LETTER", r"[\p{L}&&\p{Age=6.3}&&\x00-\u{FFFF}]"),
    (
        "LETTER",
        concat!(
            r"(?:{JAVA_LETTER}|&[aeiouAEIOU](?:acute|grave|uml);|",
            r"[\u{AD}\u{237}-\u{24F}\u{2C2}-\u{2C5}\u{2D2}-\u{2DF}\u{2E5}-\u{36F}\u{370}-\u{37D}\u{384}\u{385}\u{3CF}\u{3F6}",
            r"\u{3FC}-\u{3FF}\u{483}-\u{487}\u{4CF}\u{4F6}-\u{4FF}\u{510}-\u{525}\u{55A}-\u{55F}\u{591}-\u{5BD}\u{5BF}\u{5C1}",
            r"\u{5C2}\u{5C4}\u{5C5}\u{5C7}\u{615}-\u{61A}\u{63B}-\u{63F}\u{64B}-\u{65E}\u{670}\u{6D6}-\u{6EF}\u{6FA}-\u{6FF}",
            r"\u{70F}\u{711}\u{730}-\u{74F}\u{750}-\u{77F}\u{7A6}-\u{7B1}\u{7CA}-\u{7F5}\u{7FA}\u{900}-\u{903}\u{93C}",
            r"\u{93E}-\u{94E}\u{951}-\u{955}\u{962}\u{963}\u{981}-\u{983}\u{9BC}-\u{9C4}\u{9C7}\u{9C8}\u{9CB}-\u{9CD}\u{9D7}",
            r"\u{9E2}\u{9E3}\u{A01}-\u{A03}\u{A3C}\u{A3E}-\u{A4F}\u{A81}-\u{A83}\u{ABC}-\u{ACF}\u{B82}\u{BBE}-\u{BC2}",
            r"\u{BC6}-\u{BC8}\u{BCA}-\u{BCD}\u{C01}-\u{C03}\u{C3E}-\u{C56}\u{D3E}-\u{D44}\u{D46}-\u{D48}\u{E30}-\u{E3A}",
            r"\u{E47}-\u{E4E}\u{EB1}-\u{EBC}\u{EC8}-\u{ECD}])",
        ),
    ),
    ("ALNUM", r"(?:{LETTER}|{DIGIT})"),
    ("WORD", r"{LETTER}{ALNUM}*(?:[.!?]{LETTER}{ALNUM}*)*"),
    ("APOS", r"(?:['\u{92}\u{2019}]|&apos;)"),
    ("APOS_LIKE", r"(?:['`\u{92}\u{2019}\u{91}\u{2018}\u{201B}]|&apos;)"),
    ("CONTRACTED", r"{APOS}(?:[msdMSD]|re|ve|ll)"),
    ("NOT", r"n{APOS_LIKE}t"),
    ("NUM", r"(?:{DIGIT}*(?:[.:,\u{AD}\u{66B}\u{66C}]{DIGIT}+)+|{DIGIT}+)"),
    ("ACRONYM", r"(?:[A-Za-z](?:\.[A-Za-z])+|(?:Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(?:U\.K|U\.S\.S\.R))"),
    ("MONTH", r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)"),
    ("DAY", r"(?:Mon|Tue|Tues|Wed|Thu|Thurs|Fri)"),
    (
        "STATE",
        concat!(
            r"(?:Ala|Ariz|[A]z|[A]rk|Calif|Colo|Conn|Ct|Dak|[D]el|Fla|Ga|[I]ll|Ind|Kans?|Ky|[L]a|[M]ass|Md|",
            r"Mich|Minn|[M]iss|Mo|Mont|Neb|Nev|Okla|[O]re|[P]a|Penn|Tenn|[T]ex|Va|Vt|[W]ash|Wisc?|Wyo)",
        ),
    ),
    ("COMPANY", r"(?:Inc|Cos?|Corp|Pp?t[ye]s?|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys|Bldg)"),
    ("SUFFIX", r"(?:Jr|Sr|Bros|(?:Ed|Ph)\.D|Blvd|Rd|Esq)"),
    // Followed by lower case as a rule: a capital begins a sentence.
    ("ABBREVIATION", r"(?:{MONTH}|{DAY}|{STATE}|{COMPANY}|{SUFFIX}|tel|est|ext|sq|etc|al|seq)\."),
    (
        "TITLE",
        concat!(
            r"(?:Mr|Mrs|Ms|[M]iss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|",
            r"Pvt|Capt|Ste?|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|",
            r"Insp|Mlle|Mme|Msgr|Sfc|Dept)",
        ),
    ),
    // Followed by a capital as a rule.
    (
        "ABBREVIATION_IN_NAME",
        r"(?:[A-Za-z]|{TITLE}|vs|Alex|Wm|Jos|Cie|a\.k\.a|cf|TREAS|Ph|{ACRONYM}|Invt|Elec|Natl|M[ft]g)\.",
    ),
    (
        "STARTER",
        concat!(
            r"(?:[A]bout|[A]fter|[A]n?|[A]s|[A]t|[B]ut|[E]arlier|[H]er?|[H]ere|[H]owever|[I]f|[I]n|[I]t|",
            r"[L]ast|[M]any|[M]ore|[M]r\.|[M]s\.|[N]ow|[O]nce|[O]ne|[O]ther|[O]ur|[S]he|[S]ince|[S]o|[S]ome|",
            r"[S]uch|[T]hat|[T]he|[T]heir|[T]hen|[T]here|[T]hese|[T]hey|[T]his|[W]e|[W]hat|[W]hen|[W]hile|",
            r"[Y]et|[Y]ou|{TAG})",
        ),
    ),
    ("THING_PART", r"(?:[dDoOlL]{APOS_LIKE}(?:{JAVA_LETTER}|{DIGIT}))?(?:{JAVA_LETTER}|{DIGIT})+"),
    ("THING", r"{THING_PART}(?:[\-_\u{58A}\u{2010}\u{2011}]{THING_PART})*"),
    ("THING_AND", r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"),
    ("THING_OR", r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    ("HYPHENATED", r"[A-Za-z0-9][A-Za-z0-9.,\u{AD}]*(?:-(?:[A-Za-z0-9\u{AD}]+|{ACRONYM}\.))+"),
    (
        "FILE_NAME",
        concat!(
            r"{ALNUM}+(?:\.{ALNUM}+)*\.(?:bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|",
            r"mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip)",
        ),
    ),
    (
        "APOSTROPHE_WORD",
        concat!(
            r"(?:{APOS}n{APOS}?|[lLdDjJ]{APOS}|Dunkin{APOS}|somethin{APOS}|ol{APOS}|{APOS}em|{APOS}[2-9]0s|",
            r"{APOS}till?|o{APOS}clock|o{APOS}o|[A-HJ-XZn]{APOS_LIKE}{JAVA_LETTER}{2}{JAVA_LETTER}*|{APOS}cause|cont'd\.?|",
            r"nor'easter|c'mon|e'er|ne'er|hallowe'en|c{APOS}est|s'mores|ev'ry|li'l|nat'l|ma'am|B'Gosh|",
            r"{JAVA_LETTER}+[aeiouyAEIOUY]{APOS_LIKE}[aeiouA-Z]{JAVA_LETTER}*)",
        ),
    ),
];

/// Patterns and actions. Letters outside of classes match in either case.
const RULES: &[(&str, Action)] = &[
    (r"cannot", Token(3)),
    (r"gonna|gotta|lemme|gimme|wanna", Token(2)),
    (r"'tis", Token(2)),
    (r"'twas", Token(3)),
    (r"{TAG}", Token(0)),
    (r"&(?:MD|mdash|ndash);|[\u{96}\u{97}\u{2013}-\u{2015}]", Written("--", 0)),
    (r"&amp;", Written("&", 0)),
    (r"&nbsp;", Skip),
    (r"&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);", Token(0)),
    (r"{WORD}{CONTRACTED}", BeforeContraction),
    (r"[A-Za-z\u{AD}]*[A-MO-Za-mo-z]\u{AD}*{NOT}", BeforeContraction),
    (r"{WORD}", Token(0)),
    (r"{APOSTROPHE_WORD}", Token(0)),
    (r"{APOS}[0-9]{2}{SPACE_OR_LINE}", Token(1)),
    (r"y{APOS}{JAVA_LETTER}", Token(1)),
    (r"https?://[^ \t\n\f\r\x22<>|(){}]+[^ \t\n\f\r\x22<>|.!?(){},\-]", Token(0)),
    (
        concat!(
            r"(?:(?:www\.(?:[^ \t\n\f\r\x22<>|.!?(){},]+\.)+[a-zA-Z]{2,4})|(?:(?:[^ \t\n\f\r\x22`'<>|",
            r".!?(){},-_$]+\.)+(?:com|net|org|edu)))(?:/[^ \t\n\f\r\x22<>|()]+[^ \t\n\f\r\x22<>|.!?(){},\-])?",
        ),
        Token(0),
    ),
    (
        concat!(
            r"(?:&lt;|<)?[a-zA-Z0-9][^ \t\n\f\r\x22<>|()\u{A0}{}]*@(?:[^ \t\n\f\r\x22<>|",
            r"(){}.\u{A0}]+\.)*[^ \t\n\f\r\x22<>|(){}.\u{A0}]+(?:&gt;|>)?",
        ),
        Token(0),
    ),
    (r"@[a-zA-Z_][a-zA-Z_0-9]*|#{LETTER}+", Token(0)),
    (r"{CONTRACTED}[^A-Za-z]", Token(1)),
    (r"{NOT}", Token(0)),
    (r"{DIGIT}{1,2}[\-/]{DIGIT}{1,2}[\-/]{DIGIT}{2,4}", Token(0)),
    (r"[+\-]?{NUM}", Token(0)),
    (r"(?:{DIGIT}{1,4}[\- \u{A0}])?{DIGIT}{1,4}(?:\\?/|\u{2044}){DIGIT}{1,4}", Token(0)),
    (r"[\u{BC}]", Written("1/4", 0)),
    (r"[\u{BD}]", Written("1/2", 0)),
    (r"[\u{BE}]", Written("3/4", 0)),
    (r"[\u{2153}]", Written("1/3", 0)),
    (r"[\u{2154}]", Written("2/3", 0)),
    (r"[\u{2155}-\u{215E}]", Token(0)),
    (
        r"[\u{207A}\u{207B}\u{208A}\u{208B}]?(?:[\u{2070}\u{B9}\u{B2}\u{B3}\u{2074}-\u{2079}]+|[\u{2080}-\u{2089}]+)",
        Token(0),
    ),
    (r"{THING_OR}", Token(0)),
    (r"[cCfF]#|c\+\+", Token(0)),
    (r"-(?:LRB|RRB|LSB|RSB|LCB|RCB)-", Token(0)),
    (r"[A-Z]*\$|#", Token(0)),
    (r"[\u{A2}]", Written("cents", 0)),
    (r"[\u{A5}\u{60B}\u{E3F}\u{20A4}\u{FFE0}\u{FFE1}\u{FFE5}\u{FFE6}]", Token(0)),
    (r"[\u{A3}]", Written("#", 0)),
    (r"[\u{A4}\u{80}\u{20A0}\u{20AC}]", Written("$", 0)),
    (r"(?:Co|Pt[ye])\.{SPACE}Ltd", ToPeriod),
    (r"{ABBREVIATION}{NEW_SENTENCE}", PeriodTwice),
    (r"{ABBREVIATION}[\x00-\u{10FFFF}]{2}", Token(2)),
    // At the end of the text.
    (r"{ABBREVIATION}", PeriodTwice),
    (r"[A-Za-z]\.{SPACE_OR_LINE}+{STARTER}{SPACE_OR_LINE}", BeforePeriod),
    (r"{ACRONYM}\.{SPACE_OR_LINE}+{STARTER}{SPACE_OR_LINE}", PeriodTwice),
    (r"{ABBREVIATION_IN_NAME}", Token(0)),
    (r"(?:nos?|pp|op|prop|figs?|art|ca)\.{SPACE_OR_LINE}?{DIGIT}", ToPeriod),
    (r"(?:{WORD}|{THING})\.[,;:\u{3001}]", Token(1)),
    (
        concat!(
            r"\([0-9]{2,3}\)[ \u{A0}]?[0-9]{3,4}[\- \u{A0}]?[0-9]{3,5}|",
            r"(?:\+\+?)?(?:[0-9]{2,4}[\- \u{A0}])?[0-9]{2,4}[\- \u{A0}][0-9]{3,4}[\- \u{A0}]?[0-9]{3,5}|",
            r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        ),
        Token(0),
    ),
    (r"(?:\x22|&quot;)[A-Za-z0-9$]", Written("``", 1)),
    (r"\x22|&quot;", Written("''", 0)),
    (r"<<|>>", Token(0)),
    (r"<|&lt;", Written("<", 0)),
    (r">|&gt;", Written(">", 0)),
    (r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]][^A-Za-z0-9]", Token(1)),
    (r"[\-\^x=~<>']_[\-\^x=~<>']|\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", Token(0)),
    (r"-+", Hyphens),
    (r"\.{3,5}|(?:\.[ \u{A0}]){2,4}\.|[\u{2026}]", Written("...", 0)),
    (r"@+|#+|_+|\*+|(?:\\\*){1,3}", Token(0)),
    (r"[,;:\u{3001}]", Token(0)),
    (r"[?!]+", Token(0)),
    (r"[.\u{A1}\u{BF}\u{37E}\u{589}\u{61F}\u{6D4}\u{3002}]", Token(0)),
    (r"[=/+%&\\(){}\[\]\^|~]", Token(0)),
    (r"{HYPHENATED}", Token(0)),
    (r"{THING}", Token(0)),
    (r"{THING_AND}", Token(0)),
    (r"{FILE_NAME}(?:{SPACE_OR_LINE}|[.?!,])", Token(1)),
    (r"'[A-Za-z][^ \t\n\r\u{A0}]", Written("`", 2)),
    (r"{CONTRACTED}", Token(0)),
    (r"''|{APOS}|[`\u{2018}-\u{201F}\u{91}-\u{94}\u{2039}\u{203A}\u{AB}\u{BB}]{1,2}", Token(0)),
    (
        concat!(
            r"[\u{387}\u{5BE}\u{5C0}\u{5C3}\u{5C6}\u{5F3}\u{5F4}\u{600}-\u{603}\u{606}-\u{60A}\u{60C}\u{614}\u{61B}\u{61E}\u{66A}",
            r"\u{66D}\u{700}-\u{70D}\u{7F6}-\u{7F8}\u{964}\u{965}\u{E4F}\u{1FBD}\u{2016}\u{2017}",
            r"\u{A6}-\u{A9}\u{AC}\u{AE}-\u{B1}\u{B4}-\u{BA}\u{D7}\u{F7}\u{2020}-\u{2023}\u{2030}-\u{2038}",
            r"\u{203B}\u{203E}-\u{2042}\u{2044}\u{207A}-\u{207F}\u{208A}-\u{208E}\u{2100}-\u{214F}\u{2190}-",
            r"\u{21FF}\u{2200}-\u{2BFF}\u{3012}\u{30FB}\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF20}\u{FF3B}-\u{FF40}",
            r"\u{FF5B}-\u{FF65}]",
        ),
        Token(0),
    ),
    (r"\x00|{SPACE}+|[\u{200B}\u{200E}\u{200F}\u{FEFF}\u{82}\u{84}]", Skip),
    (r"\r|\r?\n|[\u{2028}\u{2029}\u{B}\u{C}\u{85}]", NewLine),
];

/// The pattern that `template` stands for: parts put in, and classes protected from the rule that case does not matter.
fn pattern(template: &str) -> String {
    let mut whole = template.to_owned();
    for (name, part) in PARTS.iter().rev() {
        whole = whole.replace(&format!("{{{name}}}"), &format!("(?:{part})"));
    }
    let (mut cased, mut escaped, mut inside) = (String::from("(?i)"), false, false);
    for c in whole.chars() {
        match c {
            '[' if !escaped && !inside => {
                inside = true;
                cased.push_str("(?-i:[");
            }
            ']' if !escaped && inside => {
                inside = false;
                cased.push_str("])");
            }
            c => cased.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    cased
}

/// Finds the longest match at a place.
struct Lexer {
    dfa: DFA,
    cache: Cache,
}

impl Lexer {
    fn new() -> Self {
        let patterns: Vec<String> = RULES.iter().map(|(template, _)| pattern(template)).collect();
        let dfa = DFA::builder()
            .configure(DFA::config().match_kind(MatchKind::All).cache_capacity(64 << 20))
            .syntax(syntax::Config::new().unicode(true))
            .build_many(&patterns)
            .expect("patterns");
        let cache = dfa.create_cache();
        Lexer { dfa, cache }
    }

    /// Length of the longest match at the start of `text` and its first rule.
    fn longest(&mut self, text: &str) -> Option<(usize, Action)> {
        let input = Input::new(text).anchored(Anchored::Yes);
        let found = self.dfa.try_search_fwd(&mut self.cache, &input).ok()??;
        let rule: PatternID = found.pattern();
        RULES.get(rule.as_usize()).map(|(_, action)| (found.offset(), *action))
    }
}

static LEXER: LazyLock<Mutex<Lexer>> = LazyLock::new(|| Mutex::new(Lexer::new()));

/// The tokens of texts as the tokenizer writes them, before they are put in lower case.
pub fn ptb_tokens(texts: &[&str]) -> Vec<Vec<String>> {
    let joined: Vec<String> = texts
        .iter()
        .map(|text| text.replace(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'], " "))
        .collect();
    let joined = joined.join("\n");
    let mut lexer = LEXER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lines = vec![Vec::new()];
    let mut rest = joined.as_str();
    while !rest.is_empty() {
        let Some((length, action)) = lexer.longest(rest).filter(|(length, _)| *length > 0) else {
            // A character that no rule knows is dropped.
            rest = rest.get(rest.chars().next().map_or(1, char::len_utf8)..).unwrap_or("");
            continue;
        };
        let taken = apply(action, &rest[..length], &mut lines);
        rest = &rest[taken.max(1)..];
    }
    lines
}

/// Adds the token of a match to the last line; returns how many bytes are taken.
fn apply(action: Action, matched: &str, lines: &mut Vec<Vec<String>>) -> usize {
    let all_but =
        |count: usize| matched.char_indices().rev().nth(count.wrapping_sub(1)).map_or(matched.len(), |(at, _)| at);
    let (taken, token) = match action {
        Token(behind) => (all_but(behind), None),
        Written(text, behind) => (all_but(behind), Some(text.to_owned())),
        Skip => return matched.len(),
        NewLine => {
            lines.push(Vec::new());
            return matched.len();
        }
        Hyphens => (matched.len(), (matched.len() == 3 || matched.len() == 4).then(|| "--".to_owned())),
        BeforeContraction => {
            let apostrophe = matched
                .char_indices()
                .rfind(|(_, c)| "'`\u{91}\u{92}\u{2018}\u{2019}\u{201B}&".contains(*c))
                .map_or(0, |(at, _)| at);
            let not = matched[apostrophe..].to_lowercase().ends_with('t')
                && matched[..apostrophe].to_lowercase().ends_with('n');
            (if not { apostrophe - 1 } else { apostrophe }, None)
        }
        ToPeriod => (matched.find('.').map_or(matched.len(), |at| at + 1), None),
        BeforePeriod => (matched.find('.').unwrap_or(matched.len()), None),
        PeriodTwice => {
            let end = matched.find(char::is_whitespace).unwrap_or(matched.len());
            (end - 1, Some(written(&matched[..end])))
        }
    };
    let token = token.unwrap_or_else(|| written(&matched[..taken]));
    if let Some(line) = lines.last_mut() {
        line.push(token);
    }
    taken
}

/// A token as the tokenizer writes it: brackets by name, plain quotes where they are all there is or where a
/// contraction begins with one, spaces that do not break.
fn written(token: &str) -> String {
    let plain = token.replace("&apos;", "'").replace(['\u{92}', '\u{2019}'], "'");
    let plain = plain.replace(['\u{91}', '\u{2018}', '\u{201B}'], "`");
    let contraction = ["'s", "'m", "'d", "'re", "'ve", "'ll", "n't", "n`t"].contains(&plain.to_lowercase().as_str());
    if contraction {
        return plain;
    }
    // A hyphen that is only shown where a line breaks stands alone.
    if token == "\u{ad}" {
        return "-".to_owned();
    }
    if token.chars().all(|c| quote(c).is_some()) {
        return token.chars().filter_map(quote).collect();
    }
    let name = |c: char| match c {
        '(' => "-LRB-".to_owned(),
        ')' => "-RRB-".to_owned(),
        '[' if token.len() == 1 => "-LSB-".to_owned(),
        ']' if token.len() == 1 => "-RSB-".to_owned(),
        '{' if token.len() == 1 => "-LCB-".to_owned(),
        '}' if token.len() == 1 => "-RCB-".to_owned(),
        ' ' => "\u{a0}".to_owned(),
        // A soft hyphen.
        '\u{ad}' => String::new(),
        c => c.to_string(),
    };
    token.replace("&apos;", "'").chars().map(name).collect()
}

/// How a quotation mark is written.
fn quote(c: char) -> Option<&'static str> {
    Some(match c {
        '\'' | '\u{92}' | '\u{2019}' | '\u{203A}' => "'",
        '`' | '\u{91}' | '\u{2018}' | '\u{201B}' | '\u{2039}' => "`",
        '\u{93}' | '\u{201C}' | '\u{AB}' => "``",
        '\u{94}' | '\u{201D}' | '\u{BB}' => "''",
        '\u{201A}' => "\u{201A}",
        '\u{201E}' => "\u{201E}",
        '\u{201F}' => "\u{201F}",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{caption_tokens, ptb_tokens};

    #[test]
    fn rules_of_the_treebank() {
        let cases = [
            ("I don't, can't; cannot!", "I do n't , ca n't ; can not !"),
            ("He said \"hello\" and (bye)...", "He said `` hello '' and -LRB- bye -RRB- ..."),
            ("It's 50% off, $3.50 or 1,000.5", "It 's 50 % off , $ 3.50 or 1,000.5"),
            ("Mr. Smith of the U.S. The end.", "Mr. Smith of the U.S. . The end ."),
            ("a red/blue T-shirt and 1/2 at 5:30 p.m.", "a red/blue T-shirt and 1/2 at 5:30 p.m."),
            ("see http://a.b/c, x@y.com \u{2013} AT&T & co", "see http://a.b/c , x@y.com -- AT&T & co"),
            ("the dogs' \u{201c}toys\u{201d} and 'em", "the dogs ' `` toys '' and 'em"),
            ("a semi-clich\u{e9} 5.jpg, 3D.gif.", "a semi-clich\u{e9} 5.jpg , 3D.gif ."),
            ("C++, C# -LRB- \u{2764}\u{fe0f} non\u{2011}stop", "C++ , C# -LRB- \u{2764} non\u{2011}stop"),
            ("Acme Co. Ltd. is l'10 to x-c.d.ef", "Acme Co. Ltd. is l'10 to x-c.d. ef"),
        ];
        for (text, tokens) in cases {
            assert_eq!(ptb_tokens(&[text])[0].join(" "), tokens);
        }
    }

    #[test]
    fn an_abbreviation_looks_into_the_next_line() {
        assert_eq!(ptb_tokens(&["made by Acme Inc.", "A dog"])[0].last().map(String::as_str), Some("."));
        assert_eq!(ptb_tokens(&["made by Acme Inc.", "a dog"])[0].last().map(String::as_str), Some("Inc."));
    }

    #[test]
    fn lines_stay_apart_whatever_is_inside() {
        let captions = caption_tokens(&["A man.\nA\u{2028}dog", "", "Two (2)"]);
        assert_eq!(
            captions.iter().map(|words| words.join(" ")).collect::<Vec<_>>(),
            ["a man a dog", "", "two -lrb- 2 -rrb-"]
        );
    }
}
