"""Reading the page as a browser does: elements, attributes and text."""

from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link", "hr", "path", "use", "rect"}


class Page(HTMLParser):
    """Elements with their attributes, visible text, and whether every element is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.data, self.open, self.unbalanced = [], [], [], []
        self.script = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data
        elif not self.open or self.open[-1] != "style":
            self.data.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.data).split())

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items())]
