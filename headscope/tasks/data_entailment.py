"""Entailment: whether what is asked follows from a sentence. Each question has a twin that differs in one word."""

from __future__ import annotations

from headscope.tasks.labelled import LabelledItem, LabelledSet, balanced

OPENINGS = (
    "Early in the morning",
    "Last week",
    "After the storm",
    "On the day of the festival",
    "During the holidays",
    "In the first week of May",
    "While the others slept",
    "Shortly after noon",
    "When the visitors had left",
    "A year ago",
)

QUESTIONS = (
    "Was the {agent} {place}?",
    "Was the {noun} {adjective}?",
    "Was it the {noun} that the {agent} {verb}?",
    "Was it the {agent} who {verb} the {noun}?",
)
"""What is asked; `_TURNED` is the part of it that another one replaces where it does not follow."""

_TURNED = ("place", "adjective", "noun", "agent")

_GAPS = ("agent", "verb", "adjective", "noun", "place")

_SCENES = """
    baker/butcher; sold; fresh/stale; bread/milk; at the market/at the station
    farmer/fisherman; repaired; wooden/iron; gate/cart; behind the barn/near the church
    nurse/dentist; cleaned; small/large; wound/tooth; in the clinic/in the kitchen
    sailor/soldier; painted; red/white; boat/ladder; in the harbour/in the forest
    teacher/student; read; long/short; poem/letter; in the classroom/in the garden
    chef/waiter; tasted; hot/cold; soup/sauce; in the kitchen/on the terrace
    girl/boy; found; silver/golden; key/ring; under the bridge/in the attic
    mechanic/driver; washed; yellow/black; truck/bus; outside the garage/beside the lake
    pianist/singer; played; cheerful/sad; waltz/march; in the theatre/on the train
    gardener/cook; watered; young/old; rose/oak; behind the house/in front of the school
    judge/lawyer; opened; thick/thin; folder/window; in the courtroom/in the lobby
    tailor/shoemaker; mended; woollen/leather; coat/glove; in the workshop/on the balcony
    pilot/engineer; checked; left/right; wing/engine; in the hangar/at the hotel
    librarian/journalist; copied; rare/common; book/map; in the library/in the cellar
    plumber/painter; replaced; broken/new; pipe/door; in the bathroom/in the hallway
    postman/policeman; carried; heavy/light; parcel/chair; up the hill/across the field
    scientist/assistant; measured; cold/warm; liquid/crystal; in the laboratory/in the tent
    aunt/uncle; baked; sweet/salty; cake/pie; in the cabin/at the office
    hunter/shepherd; followed; brown/white; dog/goat; through the valley/along the beach
    artist/visitor; sketched; tall/low; tower/wall; on the island/in the museum
    clerk/manager; signed; final/first; contract/receipt; in the bank/in the park
    boxer/dancer; lifted; wet/dry; towel/mat; in the gym/in the street
    monk/tourist; lit; tall/short; candle/lamp; in the chapel/in the desert
    miner/captain; drank; bitter/sweet; tea/juice; in the canteen/on the deck
    actress/director; wore; green/purple; dress/hat; on the stage/at the airport
    carpenter/mason; built; round/square; table/oven; in the yard/on the roof
    grandmother/neighbour; knitted; striped/plain; scarf/blanket; by the fire/on the bench
    guard/prisoner; locked; narrow/wide; door/box; in the tower/in the stable
    zookeeper/child; fed; hungry/sleepy; bear/lion; at the zoo/in the circus
    astronomer/poet; watched; bright/pale; star/moon; on the mountain/in the village
    thief/owner; hid; stolen/borrowed; necklace/clock; under the bed/in the well
    photographer/model; dropped; expensive/cheap; camera/bag; on the stairs/in the river
    florist/bride; chose; pink/orange; tulip/lily; in the shop/at the party
    surgeon/patient; moved; clean/dirty; table/bed; in the hospital/in the tunnel
    coach/player; kicked; muddy/shiny; ball/bucket; on the field/in the cafe
    queen/duke; rode; brown/grey; horse/camel; through the city/along the coast
    barber/customer; swept; dusty/clean; floor/carpet; in the salon/in the church
    cyclist/runner; bought; blue/pink; helmet/shirt; at the fair/in the suburb
    programmer/designer; deleted; old/recent; file/photo; at the office/on the ferry
    beekeeper/brewer; filled; empty/cracked; jar/barrel; in the shed/by the road
    violinist/conductor; tuned; old/new; violin/harp; in the concert hall/in the backyard
    detective/reporter; examined; torn/burnt; letter/curtain; in the hotel/in the orchard
    magician/clown; caught; white/spotted; rabbit/pigeon; in the tent/in the cinema
    electrician/janitor; fixed; small/huge; lamp/heater; in the basement/on the bridge
    secretary/president; typed; angry/polite; letter/speech; in the palace/in the kitchen
    lifeguard/swimmer; saved; little/old; dog/cat; at the pool/in the swamp
    potter/weaver; broke; blue/brown; vase/bowl; in the studio/in the meadow
    banker/miller; counted; foreign/local; money/grain; in the office/in the mill
    explorer/hermit; crossed; frozen/muddy; river/lake; in the north/in the south
    tutor/pupil; solved; difficult/easy; puzzle/riddle; in the library/on the bus
    climber/guide; packed; long/thick; rope/tent; at the camp/in the valley
    princess/servant; opened; heavy/golden; chest/gate; in the castle/in the stable
    vet/farmer; treated; sick/wild; horse/cow; in the stable/by the river
    builder/architect; measured; stone/brick; wall/house; near the square/behind the mill
    grocer/cashier; weighed; ripe/rotten; melon/pumpkin; in the store/at the harbour
    dentist/hairdresser; rented; bright/dark; room/flat; near the station/above the pub
    skater/skier; lost; left/right; boot/glove; on the ice/in the woods
    novelist/critic; praised; funny/gloomy; play/novel; in the newspaper/on the radio
    chemist/botanist; mixed; green/clear; liquid/powder; in the laboratory/in the greenhouse
    conductor/passenger; punched; blue/yellow; ticket/card; on the tram/in the waiting room
    drummer/guitarist; borrowed; wooden/plastic; drum/flute; at the festival/in the village hall
    gambler/dealer; shuffled; worn/new; deck/pile; in the casino/in the barracks
    fireman/mayor; climbed; steep/shaky; ladder/roof; beside the town hall/near the airport
    jeweller/collector; polished; tiny/large; ruby/pearl; in the shop/on the ship
    inspector/worker; tested; new/rusty; machine/alarm; in the factory/in the harbour
    priest/pilgrim; rang; bronze/silver; bell/gong; in the temple/at the inn
    butler/guest; served; cold/hot; coffee/punch; in the garden/in the dining room
    ranger/hiker; photographed; rare/common; eagle/fox; in the national park/in the car park
    cobbler/merchant; ordered; soft/stiff; leather/cloth; from the tannery/from the harbour
    referee/goalkeeper; cleaned; muddy/broken; whistle/glove; in the changing room/on the bus
    tenant/landlord; painted; narrow/wide; corridor/bedroom; in the flat/in the office
    editor/printer; burned; secret/public; document/poster; in the yard/in the fireplace
    archer/knight; aimed at; distant/nearby; target/tree; in the field/on the wall
    geologist/diver; collected; smooth/rough; stone/shell; on the beach/in the cave
    tourist/local; photographed; ancient/modern; temple/bridge; in the old town/on the island
    cook/maid; peeled; green/red; apple/pepper; in the kitchen/on the porch
    blacksmith/stableman; heated; bent/straight; horseshoe/sword; in the forge/in the barn
    curator/student; hung; framed/unframed; picture/mirror; in the gallery/in the corridor
    cameraman/actor; broke; heavy/cheap; tripod/chair; in the studio/on the beach
    trainer/jockey; led; nervous/calm; horse/pony; around the track/through the village
"""


def _items() -> list[LabelledItem]:
    found: list[LabelledItem] = []
    for number, line in enumerate(_SCENES.strip().splitlines()):
        parts = [part.strip().split("/") for part in line.split(";")]
        true, other = ({gap: part[which] for gap, part in zip(_GAPS, parts, strict=True)} for which in (0, -1))
        for turn, (question, turned) in enumerate(zip(QUESTIONS, _TURNED, strict=True)):
            opening = OPENINGS[(number + 3 * turn) % len(OPENINGS)]
            premise = "{opening}, the {agent} {verb} the {adjective} {noun} {place}.".format(opening=opening, **true)
            for label, words in enumerate((true, {**true, turned: other[turned]})):
                text = f"{premise} {question.format(**words)}"
                found.append(LabelledItem(text, label, group=line.strip()))
    return found


def build() -> LabelledSet:
    """The set: 80 scenes, each with four questions to say yes to, and their four twins."""
    return LabelledSet(
        name="entailment",
        title="Does it follow?",
        kind="classification",
        labels=("Yes", "No"),
        template="{text}",
        source="RTE (Dagan et al. 2005) and CB (de Marneffe et al. 2019), asked as in BoolQ (Clark et al. 2019)",
        items=balanced(_items()),
    )
