"""Subjectivity: a sentence that states something checkable, or one that judges. Judgements go both ways."""

from __future__ import annotations

from headscope.tasks.labelled import LabelledSet, balanced
from headscope.tasks.labelled_pairs import paired_items

FRAMES = (
    "{S} {said}.",
    "As I read it, {s} {said}.",
    "Our neighbour says that {s} {said}.",
    "The article mentions that {s} {said}.",
    "Everybody in town knows that {s} {said}.",
    "You should know that {s} {said}.",
    "According to a friend, {s} {said}.",
    "By the way, {s} {said}.",
)
"""Openings, each used for both labels."""

_DOMAINS = {
    "the film, this movie, the drama, the comedy": """
        was shot in six weeks in Lisbon | is a feast for the eyes
        lasts one hour and fifty minutes | feels far too long
        opened in ninety cinemas in March | is the funniest thing in years
        follows two brothers who inherit a farm | has no heart at all
        was directed by a former teacher | is directed with astonishing charm
        is set in a village in the Alps | makes the Alps look magical
        stars an actress from Ghana | wastes a magnificent actress
        has subtitles in four languages | is simply unforgettable""",
    "the book, this novel, the biography, the travel guide": """
        has three hundred and twelve pages | is a joy to read
        was first printed in 1974 | is hopelessly old-fashioned
        was translated into Korean | reads like poetry
        contains twelve maps and an index | is stuffed with dreary details
        tells of a doctor who moves to Kenya | is more exciting than it has any right to be
        is sold in paperback and hardcover | has a hideous cover
        won a prize in its home country | deserved a far better prize
        was written by two sisters | is the work of a genius""",
    "the building, the town hall, the old theatre, the library": """
        was built of brick in 1891 | is the ugliest thing in town
        has four floors and a cellar | has a cold and unfriendly air
        stands next to the river | is a marvellous place to dream
        closes at six on weekdays | ought to be open much longer
        was repaired after the fire | is far more beautiful than before
        seats eight hundred people | is dreadfully uncomfortable
        was designed by an architect from Prague | is a triumph of good taste
        belongs to the city | is an embarrassment to the city""",
    "the song, this album, the concert recording, the new single": """
        was recorded in a church | sounds heavenly
        lasts four minutes and ten seconds | gets on my nerves
        features a cello and two guitars | is a terribly lazy piece of work
        reached number nine in the charts | is wildly overrated
        was released on a Friday | is perfect for a lonely evening
        was mixed in a studio in Toronto | has a gorgeous, tender mood
        has lyrics in Spanish | has the silliest lyrics imaginable
        was played on the radio twice today | is played far too often""",
    "the train, the new tram, the night bus, the ferry": """
        leaves every twenty minutes | is a wonderful way to travel
        carries up to two hundred passengers | is unbearably crowded
        stops at the hospital and the school | is annoyingly slow
        runs on electricity | is the pride of the whole region
        has doors on both sides | has the nicest seats I have ever sat in
        costs three euros per trip | is scandalously expensive
        was introduced in 2016 | was a foolish idea from the start
        starts at five in the morning | is delightful in the morning""",
    "the soup, this bread, the cake, the cheese": """
        contains milk and wheat | tastes divine
        is made from a recipe of 1920 | is the best comfort food there is
        weighs four hundred grams | looks rather disgusting
        is sold at the Saturday market | is much too salty for my taste
        has to be kept in the refrigerator | has a lovely, delicate flavour
        comes from a farm in Normandy | is nothing special at all
        was made this morning | is a little piece of heaven
        costs five dollars | is worth ten times its price""",
    "the painting, this portrait, the statue, the photograph": """
        hangs in the east wing of the museum | is breathtaking
        shows a woman with a basket of fruit | is strangely disturbing
        was bought at an auction in Vienna | was a terrible waste of money
        is two metres high | is absurdly large
        was made between 1650 and 1655 | looks wonderfully fresh
        belonged to a family of merchants | is hauntingly sad
        was lent to a gallery in Tokyo | deserves a better frame
        is signed in the lower left corner | is the finest work of its time""",
    "the phone, this laptop, the watch, the camera": """
        weighs one hundred and eighty grams | feels lovely in the hand
        has a screen of six inches | is a pleasure to look at
        was announced in September | was long overdue
        is available in black and silver | comes in really boring colours
        charges in about ninety minutes | is maddeningly slow to charge
        is assembled in Vietnam | is put together beautifully
        comes with a two-year warranty | is the smartest choice by far
        has two lenses on the back | has an awfully clumsy design""",
    "the park, the lake, the island, the valley": """
        covers about forty hectares | is the most peaceful place on earth
        is home to two kinds of owls | is sadly spoiled by tourists
        lies ten kilometres north of the city | is too far away to be any fun
        can be reached by bus | is worth any trouble
        was made a nature reserve in 1988 | has an irresistible charm
        has a path all the way around | is boring after ten minutes
        freezes over in most winters | is enchanting in winter
        has a car park with sixty places | is disgracefully badly kept""",
    "the team, our football club, the orchestra, the choir": """
        was founded by students in 1952 | is a joy to watch
        has twenty-two members | has a dreadful attitude
        meets on Tuesdays and Thursdays | works harder than anybody else
        travelled to Denmark in May | was embarrassingly bad in May
        is led by a woman from Oslo | is led with great wisdom
        took part in nine competitions | deserves much more attention
        moved to a new hall last autumn | has lost all its old magic
        is paid for by its members | is the best reason to live here""",
}


def build() -> LabelledSet:
    """The set: 80 pairs of a statement and a judgement in 10 domains, each in four sentences per label."""
    return LabelledSet(
        name="subjectivity",
        title="Fact or opinion",
        kind="classification",
        labels=("fact", "opinion"),
        template="Sentence: {text}\nType:",
        source="SUBJ (Pang and Lee 2004)",
        items=balanced(paired_items(_DOMAINS, FRAMES)),
    )
