"""The words of the built-in corpus: what an event can be, and how each of its slots can be said.

Alternatives are listed from common to rare; `guerdon.quickstart.corpus` draws earlier ones more often. Whoever adds a way of
saying a value adds it to ``slots.yaml`` too (a test compares the two).
"""

from __future__ import annotations

from dataclasses import dataclass

TITLE_FIRST = (
    "Amber", "Ancient", "Blue", "Broken", "Burning", "Copper", "Crooked", "Crystal", "Distant", "Endless", "Fearless",
    "Floating", "Forgotten", "Frozen", "Gentle", "Golden", "Hidden", "Hollow", "Humble", "Patient", "Quiet", "Restless",
    "Scarlet", "Secret", "Seventh", "Silver", "Sleeping", "Stubborn", "Twisted", "Velvet", "Wandering", "Whispering",
)  # fmt: skip
TITLE_SECOND = (
    "Anchor", "Arrow", "Beacon", "Candle", "Carnival", "Clock", "Compass", "Crown", "Dragon", "Emperor", "Feather",
    "Forest", "Fountain", "Harvest", "Horizon", "Island", "Journey", "Key", "Ladder", "Lighthouse", "Mirror", "Moon",
    "Orchard", "Painter", "Raven", "Shadow", "Ship", "Stair", "Stranger", "Tide", "Tower", "Window",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of event: noun phrases with their articles, and what such an event does at a place and time."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]


KINDS = {
    "exhibition": Kind(("an exhibition", "a display"), ("opens", "can be seen", "is on view")),
    "concert": Kind(("a concert", "a live concert"), ("takes place", "begins", "is performed")),
    "lecture": Kind(("a lecture", "a talk"), ("is given", "takes place", "begins")),
    "workshop": Kind(("a workshop", "a practical class"), ("is held", "takes place", "runs")),
    "guided tour": Kind(("a guided tour", "a guided walk"), ("starts", "sets off", "takes place")),
    "film": Kind(("a film", "a movie"), ("is shown", "is screened", "runs")),
    "play": Kind(("a play", "a stage play"), ("is performed", "is staged", "takes place")),
    "reading": Kind(("a reading", "a literary reading"), ("is held", "takes place", "begins")),
}

TOPICS = (
    "carved masks", "city gardens", "clay pots", "coffee roasting", "desert cooking", "folk songs", "glass making",
    "honey bees", "jazz piano", "knitting patterns", "lost letters", "mountain weather", "night trains",
    "northern lights", "old maps", "paper kites", "poisonous mushrooms", "printing presses", "puppet makers",
    "river boats", "sea birds", "silk roads", "space travel", "steam engines", "stone bridges", "street markets",
    "village bakers", "wild flowers", "winter sports", "wooden toys",
)  # fmt: skip
TOPIC_FORMS = ("about {}", "devoted to {}", "inspired by {}", "on the subject of {}", "exploring {}")

PLACES = (
    "Botanical Pavilion", "Bridge Hotel", "Castle Library", "Cedar House", "Customs Warehouse", "Harbour Museum",
    "Lantern Club", "Maritime Centre", "Market Chapel", "Northgate Church", "Observatory", "Old Mill", "Palace Courtyard",
    "Rose Theatre", "Station Gallery", "Town Hall", "Union Cellar", "Valley School",
)  # fmt: skip
PLACE_FORMS = ("at the {}", "in the {}", "inside the {}")
HOSTS = ("presents", "hosts", "offers", "invites you to", "welcomes you to")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAY_FORMS = ("on {}", "this {}")

HOURS = {
    "9 am": ("9 am", "nine in the morning", "nine o'clock in the morning"),
    "11 am": ("11 am", "eleven in the morning", "eleven o'clock in the morning"),
    "2 pm": ("2 pm", "two in the afternoon", "two o'clock in the afternoon"),
    "4 pm": ("4 pm", "four in the afternoon", "four o'clock in the afternoon"),
    "7 pm": ("7 pm", "seven in the evening", "seven o'clock in the evening"),
    "9 pm": ("9 pm", "nine in the evening", "nine o'clock in the evening"),
}
HOUR_FORMS = ("at {}", "from {}")

AMOUNTS = {
    "free": (),
    "5 euros": ("5 euros", "five euros"),
    "8 euros": ("8 euros", "eight euros"),
    "12 euros": ("12 euros", "twelve euros"),
    "20 euros": ("20 euros", "twenty euros"),
}
AMOUNT_FORMS = ("for {}", "at a price of {}")
AMOUNT_CLAUSES = (
    "tickets cost {}",
    "admission is {}",
    "a ticket costs {}",
    "the entrance fee is {}",
    "you pay {}",
    "expect to spend {}",
)
FREE_FORMS = ("free of charge", "at no charge")
FREE_CLAUSES = ("admission is free", "it costs nothing", "entrance is free", "it is free of charge", "nobody has to pay")

AUDIENCES = {
    "children": ("children", "kids", "young visitors"),
    "families": ("families", "parents with children"),
    "students": ("students", "pupils and students"),
    "adults": ("adults", "grown-ups"),
    "seniors": ("seniors", "older visitors"),
    "beginners": ("beginners", "newcomers"),
    "everyone": ("everyone", "visitors of all ages"),
}
AUDIENCE_FORMS = ("for {}", "meant for {}", "aimed at {}", "suitable for {}")
AUDIENCE_CLAUSES = ("it is meant for {}", "it is aimed at {}", "it suits {}", "it will please {}", "{} will enjoy it")

BOOKING_CLAUSES = {
    "required": (
        "booking is required",
        "please book ahead",
        "seats must be reserved",
        "you have to reserve a seat",
        "booking is a must",
    ),
    "not required": ("no booking is needed", "just walk in", "booking is not required", "you need not book", "simply turn up"),
}

# A clause that begins so is a request; it stands as a sentence of its own.
REQUESTS = ("please", "just", "simply", "expect")
