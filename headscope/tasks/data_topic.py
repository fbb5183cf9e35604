"""Topic of a news item: politics, sports, business or technology. All topics share openings, cities and days."""

from __future__ import annotations

from headscope.tasks.labelled import LabelledItem, LabelledSet, balanced

FRAMES = (
    "On {day}, {event}.",
    "Reports from {city} say that {event}.",
    "{city} - It was announced on {day} that {event}.",
    "After weeks of rumours, it is now official: {event}.",
    "Few people had expected it, but {event}, sources in {city} said.",
    "In a story that surprised many in {city}, {event}.",
    "Newspapers in {city} wrote on {day} that {event}.",
    "It was a long {day} in {city}: {event}.",
)
"""Openings, each used for every topic."""

CITIES = ("London", "Berlin", "Toronto", "Madrid", "Sydney", "Chicago", "Seoul", "Milan", "Dublin", "Nairobi")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

LABELS = ("politics", "sports", "business", "technology")

EVENTS = {
    "politics": """
        the two governments agreed to reopen the border after months of talks
        the coalition split over a law on asylum and borders
        the president dissolved parliament and called an early election
        rebels and the army accepted a ceasefire in the north
        the foreign minister met her rivals for peace talks
        the mayor was elected for a third term by a narrow majority
        the United Nations sent observers to monitor the vote
        protesters filled the capital to demand the release of prisoners
        the prime minister resigned after losing a vote of confidence
        the embassy was closed because of threats against diplomats
        the governor vetoed a bill that would have changed the voting age
        a treaty to ban landmines was signed by forty nations
        voters rejected a new constitution in a referendum
        the king pardoned dozens of political prisoners
        the ambassador was called home in a dispute over the islands
        the minister of defence denied that he had misled parliament
        soldiers patrolled the streets after a failed coup
        the opposition leader returned from exile to run for president
        leaders of the region met to discuss the drought and the hunger
        judges at the tribunal sentenced a former general for war crimes
        the new cabinet promised to end the state of emergency
        hostages were freed after a week of secret negotiations
        the peacekeepers will stay in the valley for another year
        two nuclear powers agreed to talk about disarmament
        the socialists and the liberals agreed to form a government
        the senate approved sanctions against the military regime""",
    "sports": """
        the home team won the final with a goal in the last minute
        the sprinter broke the national record in the hundred metres
        the goalkeeper saved two penalties and sent her side to the semi-finals
        the coach was dismissed after the seventh defeat in a row
        the champion lost in straight sets to a player ranked ninetieth
        the striker scored three times in the first half
        the marathon was won by a runner who had never raced before
        the pitcher threw a perfect game in front of a full stadium
        the captain will miss the season because of a knee injury
        the swimmers took four gold medals at the championships
        the league suspended two defenders for a brawl on the field
        the golfer made up five strokes in the final round
        the cyclist kept the yellow jersey after the mountain stage
        the quarterback threw for four touchdowns in the opening game
        the club signed a young midfielder for the next three seasons
        the boxer kept his title with a knockout in the third round
        the rugby match ended in a draw after a late try
        the skier won the downhill by a hundredth of a second
        the basketball team reached the playoffs for the first time in ten years
        the referee sent off two players before half-time
        the relay team dropped the baton within sight of the medals
        the tennis star will play her last tournament this summer
        the hockey side came back from three goals down
        fans stormed the pitch when their club was relegated
        the gymnast scored a perfect ten on the balance beam
        the Olympic committee added climbing to the next games""",
    "business": """
        shares of the carmaker fell after a profit warning
        the central bank raised interest rates by a quarter of a point
        the airline agreed to buy its smaller rival for two billion dollars
        the retailer will close sixty stores to cut costs
        oil prices rose to their highest level in a year
        unemployment fell as factories hired more workers
        the brewery reported record sales in the third quarter
        investors sold the currency after weak export figures
        the supermarket chain named a new chief executive
        the two banks called off their planned merger
        the steel maker filed for bankruptcy protection
        consumer prices climbed faster than economists had forecast
        the insurer doubled its dividend after a profitable year
        workers at the shipyard accepted a pay rise of four percent
        the stock market closed higher for the fifth session in a row
        the furniture company will move its headquarters to save taxes
        the coffee chain plans to sell its stake in a bottling firm
        the trade deficit shrank as imports of fuel declined
        the pension fund bought a third of the toll road operator
        the regulator fined a brokerage for misleading its clients
        the toy maker expects lower earnings because of rising wages
        the family firm went public and raised ninety million euros
        house prices slipped as mortgage lenders tightened their terms
        the mining group sold its copper business to pay off debt
        the budget airline posted a loss because of higher fuel costs
        the economy grew by half a percent in the last quarter""",
    "technology": """
        engineers presented a chip that uses half the power of the old one
        a flaw in the browser let hackers read stored passwords
        the new operating system will support older computers
        researchers taught a robot to fold laundry
        the search engine can now answer questions in ninety languages
        a computer virus spread through millions of inboxes
        the smartphone maker showed a screen that can be folded
        scientists built a battery that charges in five minutes
        programmers released a free version of the database software
        the video game console will play discs of the earlier model
        a satellite began to send internet signals to remote villages
        developers fixed a bug that had crashed the messaging app
        the laptop is the first to use the faster wireless standard
        the encryption of the chat program was broken by students
        the web browser will block pop-up windows by default
        the electric car can be updated over the internet
        the lab printed a working lens on a 3D printer
        the voice assistant learned to recognise different speakers
        a new file format makes digital photos half as large
        the supercomputer set a record for calculations per second
        spam filters will be built into the next email software
        the open source project celebrated its millionth download
        the drone finds its way without any satellite signal
        the website was offline for hours after a software update
        a patch was issued for the security hole in the router
        the digital music player can store ten thousand songs""",
}
"""Events of each topic; none names another topic."""

_PER_EVENT = 6


def _items() -> list[LabelledItem]:
    found: list[LabelledItem] = []
    for label, topic in enumerate(LABELS):
        for number, line in enumerate(EVENTS[topic].strip().splitlines()):
            event = line.strip()
            for turn in range(_PER_EVENT):
                at = number + 7 * turn
                text = FRAMES[at % len(FRAMES)].format(
                    event=event, city=CITIES[(at // 2) % len(CITIES)], day=DAYS[(number + turn) % len(DAYS)]
                )
                found.append(LabelledItem(text, label, group=event))
    return found


def build() -> LabelledSet:
    """The set: 26 events of each of four topics, each in six sentences."""
    return LabelledSet(
        name="topic",
        title="Topic of a news item",
        kind="classification",
        labels=LABELS,
        template="{text} This is about",
        source="AG News (Zhang et al. 2015, arXiv 1509.01626), with politics for world",
        items=balanced(_items()),
    )
