"""HTML as a browser parses it."""

from html.parser import HTMLParser


class Parsed(HTMLParser):
    """Parse a page: tags with attributes, text by the tag that it is in, and which tags are not closed.

    Text is in one piece where it may break (wbr), as a browser shows it if there is room.
    """

    VOID = {"meta", "img", "br", "input", "hr", "link"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.wrong = [], [], [], []
        self.joins = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.joins = tag == "wbr"
        if self.joins:
            return
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(tag)

    def handle_data(self, data):
        before = self.text.pop()[1] if self.joins else ""
        self.text.append((self.open[-1] if self.open else "", before + data))
        self.joins = False

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)

    def words(self):
        return " ".join(" ".join(data for tag, data in self.text if tag not in ("script", "style")).split())
