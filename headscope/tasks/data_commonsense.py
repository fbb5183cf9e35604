"""Commonsense choice: a question and four options of one type, one of which an everyday fact makes right."""

from __future__ import annotations

import random

from headscope.tasks.labelled import LETTERS, LabelledItem, LabelledSet, balanced

FACTS = {
    "Where would you go to {x}? | If you want to {x}, where should you go?": """
        borrow a book: a library; buy fresh bread: a bakery; see a doctor: a hospital; watch a new film: a cinema
        catch a plane: an airport; swim in a clean pool: a swimming centre; get your hair cut: a barber shop
        look at elephants: a zoo; post a parcel: a post office; fill up the car: a petrol station
        ask for a loan: a bank; see old paintings: a museum; buy raw meat: a butcher's shop
        pray on Sunday: a church""",
    "What do you use to {x}? | Which of these things helps you to {x}?": """
        cut paper: scissors; drive in a nail: a hammer; sweep the floor: a broom; boil water for tea: a kettle
        tell the time: a clock; stay dry in the rain: an umbrella; open a locked door: a key; sew on a button: a needle
        brush your hair: a comb; see distant stars: a telescope; measure body temperature: a thermometer
        dig a hole: a shovel; find the way in a dark cellar: a torch; dry your hands: a towel""",
    "Which animal {x}? | Name the animal that {x}.": """
        gives us milk: a cow; builds dams in rivers: a beaver; barks at strangers: a dog; spins a web: a spider
        has a very long neck: a giraffe; carries its young in a pouch: a kangaroo; makes honey: a bee
        lays the eggs we eat for breakfast: a chicken; has a trunk and tusks: an elephant; gives us wool: a sheep
        chases mice and purrs: a cat; lives in the desert and has a hump: a camel; turns into a butterfly: a caterpillar
        carries its house on its back: a snail""",
    "Who usually {x}? | Which worker {x}?": """
        puts out fires: a firefighter; teaches children to read: a teacher; flies a plane: a pilot
        repairs a leaking pipe: a plumber; pulls out bad teeth: a dentist; grows wheat: a farmer
        arrests thieves: a police officer; bakes bread: a baker; cuts and styles hair: a hairdresser
        delivers letters: a postman; defends people in court: a lawyer; fixes car engines: a mechanic
        designs houses: an architect; brings food to the table in a restaurant: a waiter""",
    "{x} So what happened next? | {x} What was the result?": """
        Anna left the ice cream in the sun.: It melted.; Tom dropped the glass on the stone floor.: It broke.
        Maria forgot to water her plants for a month.: They died.; Paul added too much salt to the soup.: It tasted bad.
        The boy ate ten bars of chocolate.: He felt sick.; Lisa studied hard for the exam.: She passed it.
        The driver ran out of petrol.: The car stopped.; It snowed all night.: The streets turned white.
        The baby heard a loud noise.: She began to cry.; The man overslept.: He was late for work.
        Sara put the kettle on the stove.: The water boiled.; The dog saw a cat in the garden.: It started barking.
        The lamp was switched off.: The room became dark.; Peter told a very funny joke.: Everyone laughed.""",
    "What is {x} usually made of? | What is the usual material of {x}?": """
        a window: glass; a car tyre: rubber; a winter sweater: wool; a newspaper: paper; a knife blade: steel
        a wedding ring: gold; a snowman: snow; a candle: wax; a saddle: leather; a campfire log: wood
        a brick: clay; an omelette: eggs; a loaf of bread: flour; a castle wall: stone""",
    "What colour is {x}? | If you had to paint {x}, which colour would you use?": """
        the sky on a clear day: blue; fresh grass: green; a ripe banana: yellow; snow: white; coal: black
        a ripe tomato: red; a carrot: orange; an elephant: grey; milk chocolate: brown; a flamingo: pink
        an aubergine: purple""",
    "What do you call {x}? | What is the word for {x}?": """
        a young dog: a puppy; a young cat: a kitten; water that has frozen: ice; the first meal of the day: breakfast
        the sister of your mother: an aunt; the son of a king: a prince; twelve months together: a year
        the season with the most snow: winter; the day after Friday: Saturday; sixty minutes together: an hour
        the house that bees live in: a hive; the place where money is made: a mint; a doctor for animals: a vet
        land with water all around it: an island""",
    "What does a person need who {x}? | Someone {x}. What do they need?": """
        has not eaten all day: food; has not slept for two nights: a bed; has to climb up to the roof: a ladder
        wants to write a letter by hand: a pen; cannot read the small print: glasses; has a headache: an aspirin
        wants to cross a deep lake: a boat; has no idea which road leads to the town: a map
        wants to wash greasy plates: soap; wants to make a phone call: a telephone; feels cold in bed: a blanket
        wants to catch a fish: a hook; has to light a candle: matches; wants to paint a wall: a brush""",
    "Where do you usually find {x}? | Where would you look for {x}?": """
        fresh milk: in the refrigerator; a parked car: in the garage; a pillow: on the bed; a shark: in the ocean
        a bird's nest: in a tree; clean plates: in the kitchen cupboard; a toothbrush: in the bathroom
        smoke: above a fire; a cactus: in the desert; a blackboard: in a classroom; a famous painting: in an art gallery
        a letter from a friend: in the mailbox; a worm: under the ground; a pilot at work: in a cockpit""",
}
"""Ways to ask ``|``-separated, and ``what is asked: answer``. No answer is right for another question of its type."""

_DRAWS = 3  # sets of wrong options for each way of asking


def _items() -> list[LabelledItem]:
    dice = random.Random(1)
    found: list[LabelledItem] = []
    for ways, lines in FACTS.items():
        facts = [fact.strip().split(": ") for line in lines.strip().splitlines() for fact in line.split("; ")]
        answers = [answer for _, answer in facts]
        for x, answer in facts:
            others = dice.sample([other for other in answers if other != answer], 3 * _DRAWS)
            for way in ways.split(" | "):
                for draw in range(_DRAWS):
                    options = others[3 * draw : 3 * draw + 3]
                    label = len(found) % len(LETTERS)
                    options.insert(label, answer)
                    found.append(LabelledItem(way.format(x=x), label, tuple(options), group=x))
    return found


def build() -> LabelledSet:
    """The set: 137 facts of ten types, each asked in two ways with three sets of wrong options."""
    return LabelledSet(
        name="commonsense",
        title="Everyday facts, four options",
        kind="choice",
        labels=LETTERS,
        template="Question: {text}\nAnswer:",
        source="CommonsenseQA (Talmor et al. 2019, arXiv 1811.00937) and COPA (Roemmele et al. 2011)",
        items=balanced(_items()),
    )
