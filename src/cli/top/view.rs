//! What the person chose, and what is drawn.

use std::cmp::Ordering;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table, TableState};

use super::super::output;
use super::figures::{Rates, Row};

/// The longest filter.
const FILTER_CHARS_MAX: usize = 64;

/// What connections are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    Name,
    Accepted,
    Delivered,
    Failed,
    Queue,
    Oldest,
}

/// What the person chose.
#[derive(Debug, Default)]
pub(super) struct View {
    sort: Sort,
    reversed: bool,
    filter: String,
    /// Keys go into the filter.
    typing: bool,
    pub(super) paused: bool,
    /// The name of the chosen connection.
    chosen: Option<String>,
    details: bool,
    colours: bool,
}

/// What there is to draw.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) headline: String,
    pub(super) rows: Vec<Row>,
    /// Why there is nothing newer.
    pub(super) problem: Option<String>,
}

impl View {
    /// With colours, or without.
    pub(super) fn new(colours: bool) -> View {
        View { colours, ..View::default() }
    }

    /// Takes a key; says whether that was the end.
    pub(super) fn press(&mut self, key: KeyEvent, rows: &[Row]) -> bool {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return true;
        }
        if self.typing {
            self.type_filter(key.code);
            return false;
        }
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Char('n') => self.sort_by(Sort::Name),
            KeyCode::Char('e') => self.sort_by(Sort::Accepted),
            KeyCode::Char('d') => self.sort_by(Sort::Delivered),
            KeyCode::Char('f') => self.sort_by(Sort::Failed),
            KeyCode::Char('u') => self.sort_by(Sort::Queue),
            KeyCode::Char('o') => self.sort_by(Sort::Oldest),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('j') | KeyCode::Down => self.choose(rows, 1),
            KeyCode::Char('k') | KeyCode::Up => self.choose(rows, -1),
            KeyCode::Enter if self.details => self.details = false,
            KeyCode::Enter => {
                if self.chosen.is_none() {
                    self.choose(rows, 0);
                }
                self.details = true;
            }
            KeyCode::Esc if self.details => self.details = false,
            KeyCode::Esc => self.filter.clear(),
            _ => {}
        }
        false
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.push(letter);
            }
            _ => {}
        }
    }

    fn sort_by(&mut self, sort: Sort) {
        self.reversed = if self.sort == sort { !self.reversed } else { false };
        self.sort = sort;
    }

    /// Goes so many lines down, or up.
    fn choose(&mut self, rows: &[Row], by: isize) {
        let shown = self.shown(rows);
        let chosen = self.chosen.as_deref();
        let at = shown.iter().position(|row| chosen == Some(row.name.as_str()));
        let next = match at {
            None => 0,
            Some(at) => at.saturating_add_signed(by).min(shown.len().saturating_sub(1)),
        };
        self.chosen = shown.get(next).map(|row| row.name.clone());
    }

    /// The rows that pass the filter, in order.
    fn shown<'r>(&self, rows: &'r [Row]) -> Vec<&'r Row> {
        let filter = self.filter.to_ascii_lowercase();
        let passes = |row: &&Row| row.name.to_ascii_lowercase().contains(&filter);
        let mut shown: Vec<&Row> = rows.iter().filter(passes).collect();
        shown.sort_by(|a, b| {
            let order = self.order(a, b).then_with(|| a.name.cmp(&b.name));
            if self.reversed { order.reverse() } else { order }
        });
        shown
    }

    /// The most comes first, names from A.
    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let rate = |row: &Row, which: fn(&Rates) -> f64| row.rates.as_ref().map_or(-1.0, which);
        let most = |which: fn(&Rates) -> f64| rate(b, which).total_cmp(&rate(a, which));
        match self.sort {
            Sort::Name => a.name.cmp(&b.name),
            Sort::Accepted => most(|rates| rates.accepted),
            Sort::Delivered => most(|rates| rates.delivered),
            Sort::Failed => most(|rates| rates.failed),
            Sort::Queue => b.queue.cmp(&a.queue),
            Sort::Oldest => b.oldest.cmp(&a.oldest),
        }
    }

    fn style(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    /// Draws everything.
    pub(super) fn draw(&self, model: &Model, frame: &mut Frame<'_>) {
        let parts = [Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)];
        let [head, body, foot] = Layout::vertical(parts).areas(frame.area());
        let second = match (&model.problem, self.paused) {
            (Some(problem), _) => Line::styled(problem.clone(), self.style(Color::Red)),
            (None, true) => Line::styled("paused: p goes on", self.style(Color::Yellow)),
            (None, false) => Line::raw(""),
        };
        let headline = Line::raw(model.headline.clone());
        frame.render_widget(Paragraph::new(Text::from(vec![headline, second])), head);
        let chosen = model.rows.iter().find(|row| Some(&row.name) == self.chosen.as_ref());
        match chosen.filter(|_| self.details) {
            Some(row) => frame.render_widget(Paragraph::new(details(row)), body),
            None => self.draw_table(model, body, frame),
        }
        let keys = match self.typing {
            true => format!("filter: {}_   Enter keeps it, Esc clears it", self.filter),
            false if self.filter.is_empty() => KEYS.to_owned(),
            false => format!("only {:?} (Esc: all)   {KEYS}", self.filter),
        };
        let faint = Style::new().add_modifier(Modifier::DIM);
        frame.render_widget(Paragraph::new(keys).style(faint), foot);
    }

    fn draw_table(&self, model: &Model, area: Rect, frame: &mut Frame<'_>) {
        let shown = self.shown(&model.rows);
        let chosen = shown.iter().position(|row| Some(&row.name) == self.chosen.as_ref());
        let rows = shown.iter().map(|row| {
            let style = match row.troubled {
                true => self.style(Color::Red),
                false => Style::new(),
            };
            TableRow::new(cells(row).map(Cell::from)).style(style)
        });
        let header = TableRow::new(self.headings().map(Cell::from))
            .style(Style::new().add_modifier(Modifier::BOLD));
        let name = shown.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(11);
        let name = u16::try_from(name).unwrap_or(u16::MAX).min(40);
        let widths = [
            Constraint::Length(name),
            Constraint::Length(24),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Min(10),
        ];
        let highlight = Style::new().add_modifier(Modifier::REVERSED);
        let table = Table::new(rows, widths).header(header).row_highlight_style(highlight);
        let mut state = TableState::new().with_selected(chosen);
        frame.render_stateful_widget(table, area, &mut state);
    }

    /// The one that it is ordered by has a mark.
    fn headings(&self) -> [String; 9] {
        let mark = if self.reversed { "^" } else { "v" };
        let named = |name: &str, sort: Option<Sort>| match sort == Some(self.sort) {
            true => format!("{name} {mark}"),
            false => name.to_owned(),
        };
        [
            named("CONNECTION", Some(Sort::Name)),
            named("STATE", None),
            named("IN/S", Some(Sort::Accepted)),
            named("OUT/S", Some(Sort::Delivered)),
            named("FAIL/S", Some(Sort::Failed)),
            named("QUEUE", Some(Sort::Queue)),
            named("FLIGHT", None),
            named("OLDEST", Some(Sort::Oldest)),
            named("LAST ERROR", None),
        ]
    }
}

const KEYS: &str = "q quit  / filter  p pause  Enter details  sort: n name e in d out f fail u queue o oldest  r reverse";

fn cells(row: &Row) -> [String; 9] {
    let rate = |which: fn(&Rates) -> f64| match &row.rates {
        Some(rates) => format!("{:.1}", which(rates)),
        None => "-".to_owned(),
    };
    [
        row.name.clone(),
        row.state.clone(),
        rate(|rates| rates.accepted),
        rate(|rates| rates.delivered),
        rate(|rates| rates.failed),
        row.queue.to_string(),
        row.in_flight.to_string(),
        row.oldest.map_or("-".to_owned(), output::seconds),
        row.last_error.clone(),
    ]
}

/// One connection, a line for each figure.
fn details(row: &Row) -> Text<'static> {
    let mut fields = output::Fields::default();
    let names = [
        "connection",
        "state",
        "in/s",
        "out/s",
        "fail/s",
        "waiting",
        "in flight",
        "oldest",
        "last error",
    ];
    for (name, value) in names.iter().zip(cells(row)) {
        fields.line(name, &value);
    }
    fields.line("dead", &row.dead.to_string());
    Text::from(
        fields.text() + "\nEnter or Esc goes back; `posthaste attempts NAME` has the failures",
    )
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::figures::tests::{look, status};
    use super::super::figures::{headline, rows};
    use super::*;

    fn model() -> Model {
        let connections =
            [("crm", "closed", 0), ("erp", "open", 7), ("warehouse\u{7}", "closed", 3)];
        let before = look(0, status(&connections), &[("crm", 0, 0, 0), ("erp", 0, 0, 0)]);
        let now = look(10_000, status(&connections), &[("crm", 100, 90, 0), ("erp", 50, 0, 25)]);
        Model { headline: headline(&now.status), rows: rows(Some(&before), &now), problem: None }
    }

    /// What stands on the screen, without the spaces at the ends of lines.
    fn screen(view: &View, model: &Model) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 9)).unwrap();
        terminal.draw(|frame| view.draw(model, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| {
            let cells = (0..120).map(|x| buffer[(x, y)].symbol().to_owned());
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        (0..9).map(line).collect()
    }

    fn press(view: &mut View, model: &Model, keys: &[KeyCode]) {
        for key in keys {
            assert!(!view.press(KeyEvent::from(*key), &model.rows), "{key:?}");
        }
    }

    fn typed(text: &str) -> Vec<KeyCode> {
        text.chars().map(KeyCode::Char).collect()
    }

    #[test]
    fn everything_is_on_one_screen() {
        let expected = "\
posthaste 0.1.0 ready, up 1h 1m, configuration 3; store 1.0 MiB of 1.0 GiB

CONNECTION v     STATE                    IN/S      OUT/S     FAIL/S    QUEUE     FLIGHT    OLDEST    LAST ERROR
crm              active                   10.0      9.0       0.0       0         2         -         -
erp              active (breaker open)    5.0       0.0       2.5       7         2         1m 1s     -
warehouse\\u{7}   active                   -         -         -         3         2         1m 1s     -


q quit  / filter  p pause  Enter details  sort: n name e in d out f fail u queue o oldest  r reverse
";
        let squeeze = |text: &str| {
            text.lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(squeeze(&screen(&View::default(), &model())), squeeze(expected));
    }

    #[test]
    fn keys_sort_filter_and_choose() {
        let (mut view, model) = (View::default(), model());
        let order = |view: &View| -> Vec<String> {
            view.shown(&model.rows).iter().map(|row| row.name[..3].to_owned()).collect()
        };
        for (keys, expected) in [
            ("u", ["erp", "war", "crm"]),
            ("r", ["crm", "war", "erp"]),
            ("e", ["crm", "erp", "war"]),
            ("f", ["erp", "crm", "war"]),
            ("ff", ["erp", "crm", "war"]),
            ("n", ["crm", "erp", "war"]),
        ] {
            press(&mut view, &model, &typed(keys));
            assert_eq!(order(&view), expected, "{keys}");
        }
        press(&mut view, &model, &typed("/RP"));
        assert!(screen(&view, &model).contains("filter: RP_"));
        press(&mut view, &model, &[KeyCode::Enter]);
        assert_eq!(order(&view), ["erp"]);
        press(&mut view, &model, &[KeyCode::Esc]);
        assert_eq!(order(&view).len(), 3);
        press(&mut view, &model, &[KeyCode::Down, KeyCode::Down, KeyCode::Enter]);
        let shown = screen(&view, &model);
        assert!(shown.contains("connection  erp\n") && shown.contains("waiting     7"), "{shown}");
        press(&mut view, &model, &[KeyCode::Esc]);
        assert!(screen(&view, &model).contains("warehouse"));
        assert!(view.press(KeyEvent::from(KeyCode::Char('q')), &model.rows));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        view.typing = true;
        assert!(view.press(interrupt, &model.rows), "also while a filter is typed");
    }

    #[test]
    fn what_is_wrong_and_a_pause_are_said() {
        let (mut view, mut model) = (View::default(), model());
        press(&mut view, &model, &typed("p"));
        assert!(screen(&view, &model).contains("paused: p goes on"));
        model.problem = Some("no daemon listens".to_owned());
        let shown = screen(&view, &model);
        assert!(shown.contains("no daemon listens") && shown.contains("crm"), "{shown}");
    }
}
