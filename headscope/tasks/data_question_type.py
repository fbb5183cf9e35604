"""Question type: what kind of answer a question asks for. All types share the ways of asking."""

from __future__ import annotations

from headscope.tasks.labelled import LabelledItem, LabelledSet, balanced
from headscope.tasks.labelled_pairs import capital

LABELS = ("Abbreviation", "Entity", "Description", "Person", "Location", "Number")

FRAMES = (
    "{direct}?",
    "Can you tell me {indirect}?",
    "I would like to know {indirect}.",
    "Quiz question: {direct}?",
    "Do you happen to know {indirect}?",
    "Please find out {indirect}.",
)
"""Ways of asking, each used for every type."""

FORMS = {
    "Abbreviation": ("what does {x} stand for", "what {x} stands for"),
    "Entity": ("what is {x}", "what {x} is"),
    "Description": ("what is {x}", "what {x} is"),
    "Person": ("who {x}", "who {x}"),
    "Location": ("where is {x}", "where {x} is"),
    "Number": ("what is {x}", "what {x} is"),
}
"""The question, and the same as part of a sentence."""

_LONGER = {
    "Abbreviation": ("what is the full form of {x}", "what the full form of {x} is"),
    "Entity": ("which one is {x}", "which one is {x}"),
    "Description": ("how would you explain {x}", "how to explain {x}"),
    "Person": ("what is the name of the one who {x}", "the name of the one who {x}"),
    "Location": ("in which part of the world is {x}", "in which part of the world {x} is"),
    "Number": ("what exactly is {x}", "what exactly {x} is"),
}

ASKED = {
    "Abbreviation": """
        NASA, UNESCO, FBI, HTML, DVD, GPS, BBC, NATO, CPU, LED, AIDS, UFO, OPEC, MRI, PDF, SOS, USB, IBM, ATM, WHO,
        SCUBA, RADAR, IQ, VIP, DNA, NBA""",
    "Entity": """
        the national animal of Australia, the hardest natural substance, the main ingredient of bread,
        the favourite food of pandas, the most popular sport in Brazil, the official language of Egypt,
        the colour of an emerald, the largest animal in the ocean, the currency of Japan, the fastest bird in the air,
        the instrument with black and white keys, the gas that plants take in, the metal in old coins,
        the flower on the Canadian flag, the drink made from grapes, the fruit that raisins come from,
        the vitamin in oranges, the dance that comes from Argentina, the animal on the flag of Wales,
        the material that tyres are made of, the tree that acorns grow on, the disease spread by mosquitoes,
        the game played with a shuttlecock, the fabric made by silkworms, the language spoken in Quebec,
        the spice that makes curry yellow""",
    "Description": """
        the meaning of the word nostalgia, the reason for the seasons, the difference between a frog and a toad,
        the purpose of a catalytic converter, the definition of inflation, the cause of thunder,
        the origin of the custom of shaking hands, the point of recycling glass, the idea behind democracy,
        the way a sundial works, the nature of black holes, the effect of salt on ice, the theory of evolution,
        the reason why leaves turn red, the meaning of a yellow card in football, the history of chess,
        the cause of tides, the purpose of the appendix, the meaning of the saying a stitch in time,
        the difference between weather and climate, the reason why onions make us cry, the process of photosynthesis,
        the way a camera focuses, the use of yeast in baking, the cause of hiccups, the concept of gravity""",
    "Person": """
        invented the telephone, painted the Mona Lisa, wrote Romeo and Juliet, discovered penicillin,
        was the first on the moon, composed the Moonlight Sonata, founded Microsoft, killed Abraham Lincoln,
        played Jack in Titanic, led India to independence, wrote the Harry Potter books, built the first aeroplane,
        discovered radium, was the first to climb Mount Everest, directed Jaws, sang Thriller,
        was queen of Egypt in the time of Caesar, designed the Eiffel Tower, created Mickey Mouse,
        developed the theory of relativity, sailed to America in 1492, wrote The Odyssey, painted Guernica,
        invented dynamite, was the first president of the United States, coached England in 1966""",
    "Location": """
        the Eiffel Tower, Mount Kilimanjaro, the Grand Canyon, the Taj Mahal, the Sahara desert, Lake Victoria,
        the Kremlin, the Colosseum, the Great Barrier Reef, Machu Picchu, the Statue of Liberty, the Suez Canal,
        Niagara Falls, the Louvre, the Amazon rainforest, Stonehenge, the Golden Gate Bridge, the Dead Sea,
        the Berlin Wall, the Leaning Tower, the headquarters of the Red Cross, the Opera House, the Black Forest,
        the deepest cave in the world, the Rock of Gibraltar, the city of Timbuktu""",
    "Number": """
        the height of Mount Everest, the population of Peru, the number of legs on a spider, the speed of light,
        the distance from the Earth to the moon, the year of the French Revolution, the boiling point of water,
        the length of the Nile, the number of strings on a violin, the price of a first-class stamp,
        the age of the universe, the weight of an adult elephant, the date of the first moon landing,
        the number of players in a cricket team, the temperature on the surface of the sun, the depth of the Pacific,
        the number of bones in the human body, the size of a football field, the number of pages in the Bible,
        the year in which Titanic sank, the number of keys on a piano, the average rainfall in London,
        the percentage of water in a melon, the number of states in Mexico, the top speed of a cheetah,
        the number of days in a leap year""",
}
"""What is asked about, by type."""


def _items() -> list[LabelledItem]:
    found: list[LabelledItem] = []
    for label, kind in enumerate(LABELS):
        for number, x in enumerate(" ".join(ASKED[kind].split()).split(", ")):
            for turn in range(4):
                direct, indirect = (part.format(x=x) for part in (FORMS if turn % 2 else _LONGER)[kind])
                frame = FRAMES[(number + turn) % len(FRAMES)]
                text = frame.format(direct=capital(direct), indirect=indirect)
                found.append(LabelledItem(text, label, group=x))
    return found


def build() -> LabelledSet:
    """The set: 26 things to ask about of each of six types, each asked in four ways."""
    return LabelledSet(
        name="question-type",
        title="Type of a question",
        kind="classification",
        labels=LABELS,
        template="Question: {text}\nType:",
        source="TREC, coarse labels (Li and Roth 2002)",
        items=balanced(_items()),
    )
