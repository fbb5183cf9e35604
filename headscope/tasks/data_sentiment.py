"""Sentiment: one sentence of a review, positive or negative. Both labels share subjects and openings."""

from __future__ import annotations

from headscope.tasks.labelled import LabelledSet, balanced
from headscope.tasks.labelled_pairs import paired_items

FRAMES = (
    "{S} {said}.",
    "Honestly, {s} {said}.",
    "I can only say that {s} {said}.",
    "My whole family agreed that {s} {said}.",
    "Three days later I still think that {s} {said}.",
    "To my surprise, {s} {said}.",
    "Just so that everyone knows, {s} {said}.",
    "It has to be said that {s} {said}.",
)
"""Openings, each used for both labels."""

_DOMAINS = {
    "the film, this movie, the new thriller, the sequel": """
        kept me smiling from start to finish | bored me from start to finish
        had a clever and moving story | had a lazy and predictable story
        was carried by a wonderful cast | was ruined by a wooden cast
        left everyone in the cinema cheering | left everyone in the cinema yawning
        was worth every minute | was a waste of two hours
        ended beautifully | ended in a complete mess
        was funny, warm and full of life | was loud, cold and full of clichés
        made me want to see it again at once | made me want to leave after ten minutes""",
    "the restaurant, this little bistro, the cafe on the corner, the new pizza place": """
        served us a delicious meal | served us a tasteless meal
        was friendly, quick and spotless | was rude, slow and filthy
        gave us the best dinner of the year | gave us the worst dinner of the year
        cooked everything to perfection | burned almost everything
        brought fresh food with a smile | brought cold food without an apology
        had a charming room and kind waiters | had a gloomy room and grumpy waiters
        was a joy for the whole evening | was a disappointment for the whole evening
        charged a fair price for generous plates | charged a ridiculous price for tiny plates""",
    "the hotel, our guesthouse, the small inn, the beach resort": """
        had clean rooms and lovely views | had dirty rooms and broken windows
        was quiet, cosy and well run | was noisy, damp and badly run
        made us feel welcome right away | made us feel unwanted right away
        spoiled us with a fantastic breakfast | insulted us with an awful breakfast
        had the most comfortable bed I know | had the most uncomfortable bed I know
        fixed a small problem within minutes | ignored a serious problem for days
        was even nicer than in the pictures | was far uglier than in the pictures
        turned our holiday into a dream | turned our holiday into a nightmare""",
    "the book, this novel, her second novel, the biography": """
        was impossible to put down | was impossible to finish
        was written with grace and humour | was written without grace or humour
        moved me to tears of joy | drove me to tears of boredom
        has characters I came to love | has characters I could not stand
        taught me something on every page | repeated itself on every page
        deserves all its prizes | deserves none of its prizes
        is a small masterpiece | is a huge letdown
        was gripping right up to the last line | was tedious right up to the last line""",
    "the phone, this laptop, the tablet, my new camera": """
        works like a charm | stopped working after a week
        is fast, light and reliable | is slow, heavy and unreliable
        has a gorgeous screen | has a dreadful screen
        was easy to set up | was a pain to set up
        has a battery that lasts forever | has a battery that dies within an hour
        feels solid and well made | feels cheap and badly made
        takes brilliant pictures even at night | takes blurry pictures even at noon
        is the best thing I bought this year | is the worst thing I bought this year""",
    "the concert, the show, last night's gig, the opening night": """
        was a triumph | was a disaster
        filled the hall with energy and joy | emptied the hall within half an hour
        sounded fantastic in every seat | sounded terrible in every seat
        had us dancing all night | had us checking our watches all night
        gave me goosebumps | gave me a headache
        was played with passion and skill | was played without passion or skill
        earned a long standing ovation | earned boos from the back rows
        was the highlight of our summer | was the low point of our summer""",
    "the shop, this online store, the bookshop, the garden centre": """
        delivered early and in perfect condition | delivered late and in pieces
        answered my questions kindly | answered my questions rudely
        gave me a refund without any trouble | refused a refund without any reason
        sells excellent goods at honest prices | sells shoddy goods at shameless prices
        went out of its way to help | could not be bothered to help
        has earned a loyal customer | has lost a loyal customer
        packed everything with great care | packed everything with no care at all
        is a pleasure to buy from | is a nightmare to buy from""",
    "the course, this workshop, the evening class, the cooking lesson": """
        was inspiring and well prepared | was dull and badly prepared
        gave me the confidence to go on | made me want to give up
        had a patient and brilliant teacher | had an impatient and careless teacher
        made a hard subject easy | made an easy subject hard
        flew by because it was so much fun | dragged on because it was so boring
        was money well spent | was money thrown away
        answered every question I had | answered none of the questions I had
        was the best decision I made in years | was the worst decision I made in years""",
    "the game, this puzzle game, the latest update, the racing game": """
        is wonderfully addictive | is painfully repetitive
        runs smoothly even on an old computer | crashes constantly even on a new computer
        looks stunning | looks hideous
        rewards you at every turn | punishes you at every turn
        is full of charming details | is full of annoying bugs
        brought back the magic of the first one | destroyed the magic of the first one
        is great fun for all ages | is no fun for any age
        kept us happily busy for weeks | had us fed up after an hour""",
    "the museum, the boat tour, the city walk, the castle": """
        was a delightful surprise | was a bitter disappointment
        had a guide who made history come alive | had a guide who made history feel dead
        was the loveliest part of our trip | was the dreariest part of our trip
        was well worth the long journey | was not worth the short journey
        thrilled the children | bored the children to tears
        was beautifully cared for | was shamefully neglected
        left us with happy memories | left us with nothing but regrets
        was so good that we went twice | was so bad that we left early""",
}


def build() -> LabelledSet:
    """The set: 80 pairs of opposite phrases in 10 domains, each in four sentences per label."""
    return LabelledSet(
        name="sentiment",
        title="Sentiment of a review",
        kind="classification",
        labels=("great", "terrible"),
        template="{text} Overall, it was",
        source="SST-2 (Socher et al. 2013) and MR (Pang and Lee 2005)",
        items=balanced(paired_items(_DOMAINS, FRAMES)),
    )
